"""
Tables and plots of what the benchmarks of speed measured: `results.md`, `ratios.png` and `growth.png` beside their
JSON files.
"""

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import Row, read, spread

from titok_hf.evaluation.plots import Panel, draw_panels

# The least median ratio to the original's way that is aimed at, on a processor where MKL is at its best
# and on others: (batch 1, batch 8).
TARGETS = {
    "class -> image": ((1.4, 1.25), (1.8, 1.5)),
    "pixel decoder": ((1.2, 1.2), (1.2, 1.2)),
    "generate": ((1.8, 1.0), (1.8, 1.0)),
    "encode": ((1.5, 1.0), (1.5, 1.0)),
}
# The same for class -> image at batch 1 on the faster of the engines, in float32.
ENGINE_TARGET = 2.0
# What the plot of ratios shows at batch 1, and the names of the ways there.
SHOWN = ("encode", "decode", "generate", "class -> image")
WAYS = {
    "pipeline": "pipeline",
    "optimized": "enable_cpu_optimizations()",
    "onnx fp32": "ONNX Runtime",
    "openvino fp32": "OpenVINO",
}


def report(folder: Path) -> str:
    """Writes `results.md` and the plots; returns the text."""
    lines = ["# Measured speed", "", "Written by `python benchmarks/speed.py report` from the JSON files beside it."]
    compared: dict[tuple[str, str], float] = {}
    for path in sorted(folder.rglob("*.json"), key=lambda path: (read(path)[0]["machine"]["time"], path)):
        about, rows = read(path)
        lines += ["", f"## {path.relative_to(folder).with_suffix('')}", "", *conditions(about), ""]
        lines += growth(rows, folder) if path.stem == "growth" else table(rows)
        for row in rows:
            kind = row.name.removesuffix(", batch 1")
            compared |= {(kind, way): statistics.median(row.ratios(way)) for way in WAYS if way in row.seconds}
    draw_ratios(compared, folder / "ratios.png")
    text = "\n".join(lines) + "\n"
    (folder / "results.md").write_text(text)
    return text


def conditions(about: dict[str, Any]) -> list[str]:
    """Machine, versions and settings in one paragraph."""
    machine, settings = about["machine"], about["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = machine.get("gpu") or (
        f"{machine['processor']} (family {machine['family']}, {machine['instructions']}), {machine['cores']} cores"
    )
    return [
        f"{where}; {machine['threads']} thread(s), {settings.get('clock', 'wall')} time, load {machine['load']:.1f} "
        f"at the end; {versions}; model {settings['model']}, {settings['dtype']}, "
        f"at most {settings['rounds']} rounds; {machine['time']}."
    ]


def table(rows: list[Row]) -> list[str]:
    """One line for each way: seconds, and how many times as fast as the first way; minimum / median / maximum."""
    lines = ["| what | way | milliseconds | times as fast | outputs |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        first = next(iter(row.seconds))
        for way, seconds in row.seconds.items():
            ratio = "" if way == first else spread(row.ratios(way))
            own = {name: value for name, value in row.values.items() if name.endswith(f", {way}")}
            compared = "; ".join(f"{name.split(', ')[0]} {value:.3g}" for name, value in own.items())
            lines.append(f"| {row.name} | {way} | {spread(seconds, 1e3, 1)} | {ratio} | {compared} |")
        others = {n: v for n, v in row.values.items() if ", " not in n and n != "batch"}
        if others:
            text = "; ".join(f"{name} {value:.3g}" for name, value in others.items())
            lines.append(f"| {row.name} | | | | {text} |")
    return lines + targets(rows)


def targets(rows: list[Row]) -> list[str]:
    """Whether the ratios reach their targets."""
    lines = []
    for row in rows:
        kind, batch = row.name.partition(", batch ")[::2]
        if row.section == "engines" and (kind, batch) == ("class -> image", "1"):
            ratios = {way: statistics.median(row.ratios(way)) for way in row.seconds if way.endswith(" fp32")}
            best = max(ratios, key=lambda way: ratios[way], default="")
            if best:
                verdict = "met" if ratios[best] >= ENGINE_TARGET else "missed"
                lines.append(f"* {row.name} on {best}: {ratios[best]:.2f}, target {ENGINE_TARGET} ({verdict}).")
        if kind not in TARGETS or batch not in ("1", "8") or "optimized" not in row.seconds:
            continue
        ratio = statistics.median(row.ratios("optimized"))
        column = ("1", "8").index(batch)
        least, elsewhere = (pair[column] for pair in TARGETS[kind])
        verdict = "met" if ratio >= least else "missed"
        lines.append(
            f"* {row.name}: {ratio:.2f}, target {least} where MKL is fast ({verdict}), {elsewhere} elsewhere."
        )
    return ["", *lines] if lines else []


def growth(rows: list[Row], folder: Path) -> list[str]:
    """A table and a plot: time and memory as one size grows, and the exponent of the time's growth."""
    lines = ["| what grows | part | seconds | GiB at most | exponent |", "| --- | --- | --- | --- | --- |"]
    panels = []
    for kind in dict.fromkeys(row.values["kind"] for row in rows):
        points = [row for row in rows if row.values["kind"] == kind]
        sizes = [row.values["value"] for row in points]
        curves: dict[str, tuple[list[Any], list[float]]] = {}
        for part in points[0].seconds:
            medians = [statistics.median(row.seconds[part]) for row in points]
            curves[part] = (sizes, medians)
            for index, row in enumerate(points):
                exponent = "" if index == 0 else f"{slope(sizes, medians, index):.2f}"
                peak = f"{row.values['peak memory']:.2f}"
                lines.append(f"| {row.name} | {part} | {medians[index]:.3f} | {peak} | {exponent} |")
        panels.append(Panel(kind, "seconds", curves, logarithmic=True))
        peaks = [row.values["peak memory"] for row in points]
        panels.append(Panel(kind, "GiB at most", {"whole process": (sizes, peaks)}, logarithmic=True))
    draw_panels(panels, folder / "growth.png")
    text = "The exponent is log(time ratio) / log(size ratio) from the line before: 1 is linear. ![Growth](growth.png)"
    return [text, "", *lines]


def draw_ratios(medians: Mapping[tuple[str, str], float], path: Path) -> None:
    """Bars: how many times as fast as the original's way, by what is done and the way; nothing if nothing is known."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in SHOWN if any((kind, way) in medians for way in WAYS)]
    ways = [way for way in WAYS if any((kind, way) in medians for kind in kinds)]
    if not kinds:
        return
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(ways)
    for index, way in enumerate(ways):
        places = [place + (index - (len(ways) - 1) / 2) * width for place in range(len(kinds))]
        bars = axes.bar(places, [medians.get((kind, way), math.nan) for kind in kinds], width, label=WAYS[way])
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.margins(y=0.1)
    axes.axhline(1, color="0.3", linewidth=1)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_ylabel("times as fast as\nthe original's way")
    figure.legend(loc="outside lower center", ncols=len(ways), fontsize=8)
    figure.savefig(path, dpi=110)


def slope(sizes: list[float], seconds: list[float], index: int) -> float:
    """The exponent of growth between a point and the one before."""
    ratio = seconds[index] / seconds[index - 1]
    return math.log(ratio) / math.log(sizes[index] / sizes[index - 1])
