"""A plot of the learning curves of a training run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEST = "test/"
_COLUMNS = 3
_PANEL_INCHES = (4.0, 2.8)
_DOTS_PER_INCH = 120
_LINE_STYLES = ("solid", "dashed", "dotted", "dashdot")
# Losses of different size share a panel: beyond this ratio the small ones would lie on the axis.
_LOGARITHMIC_RANGE = 100


def draw_curves(metrics: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> Path:
    """
    Draw all losses in one panel and each test measure in a panel of its own, over the steps. Needs matplotlib.

    Args:
        metrics: rows of a `metrics.jsonl`: `{"step": 100, "loss": 0.3, "test/psnr": 21.5}`. A name with "loss" in it
            is a loss, one that begins with "test/" a test measure; other names are not drawn. Rows may have different
            names.
        path: the PNG file to write.

    Returns:
        `path`.

    Raises:
        ValueError: rows without a step, or no loss and no test measure in any of them.
    """
    series = _series(metrics)
    losses = [name for name in series if not name.startswith(_TEST)]
    panels = [losses] * bool(losses) + [[name] for name in series if name.startswith(_TEST)]
    if not panels:
        raise ValueError('The rows hold neither a loss nor a "test/..." measure. Give the rows of a metrics.jsonl.')
    from matplotlib.figure import Figure

    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).flat
    for axes, names in zip(all_axes, panels, strict=False):
        _draw_panel(axes, names, series)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_visible(False)
    return write_atomically(path, lambda unfinished: figure.savefig(unfinished, dpi=_DOTS_PER_INCH))


def _series(metrics: Iterable[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Name -> steps and values, in the order in which the names first appear."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in metrics:
        if "step" not in row:
            raise ValueError(f"A row has no step: {dict(row)}. Give the rows of a metrics.jsonl.")
        for name, value in row.items():
            if isinstance(value, int | float) and (name.startswith(_TEST) or "loss" in name):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return series


def _draw_panel(axes: Axes, names: Sequence[str], series: Mapping[str, tuple[list[int], list[float]]]) -> None:
    split = "test" if names[0].startswith(_TEST) else "train"
    for index, name in enumerate(names):
        steps, values = series[name]
        axes.plot(
            steps,
            values,
            label=name.removeprefix(_TEST),
            # Losses may be equal: each line is thinner than those below it and dashed differently, so all are visible.
            linestyle=_LINE_STYLES[index % len(_LINE_STYLES)],
            linewidth=1.2 + 2 * (len(names) - 1 - index) / len(names),
            # Without markers, a line of one point would be invisible.
            marker="o" if len(steps) < 20 else None,
            markersize=3 + 2 * (len(names) - 1 - index) / len(names),
        )
    values = [value for name in names for value in series[name][1]]
    # An adversarial loss may be negative.
    if split == "train" and min(values) > 0 and max(values) / min(values) > _LOGARITHMIC_RANGE:
        axes.set_yscale("log")
    if len(names) > 1:
        axes.legend(fontsize=8, frameon=False)
    title = names[0].removeprefix(_TEST) if len(names) == 1 else "losses"
    axes.set_title(f"{title} ({split})", fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
