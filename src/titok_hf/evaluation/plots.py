"""Plots of measured numbers, each written as one PNG file. They need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titok_hf.checkpoints.atomic_files import write_atomically

_COLUMNS = 3
_PANEL_INCHES = (4.0, 3.0)
_DOTS_PER_INCH = 110


@dataclass
class Panel:
    """
    One diagram.

    Args:
        x_label, y_label: of the axes.
        lines: name -> x and y values; texts as x values stand beside one another in their order.
        points: x and y values that are drawn as single small points behind the lines.
        logarithmic: whether the x axis is.
    """

    x_label: str
    y_label: str
    lines: Mapping[str, tuple[Sequence[Any], Sequence[float]]]
    points: tuple[Sequence[Any], Sequence[float]] = ((), ())
    logarithmic: bool = False


def draw_panels(panels: Sequence[Panel], path: str | Path) -> Path:
    """Draws the panels in rows of three and writes them as a PNG file, whose path it returns."""
    from matplotlib.figure import Figure

    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]), layout="constrained")
    names = list(panels[0].lines)
    one_legend = len(panels) > 1 and len(names) > 1 and all(list(panel.lines) == names for panel in panels)
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        # The points come first: texts on an x axis stand in the order in which they are first drawn.
        axes.plot(*panel.points, ".", color="0.7")
        for name, (x, y) in panel.lines.items():
            axes.plot(x, y, marker="o", markersize=4, label=name)
        if panel.logarithmic:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")  # 16 instead of 2 to the power of 4
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        axes.grid(alpha=0.3)
        if len(panel.lines) > 1 and not one_legend:
            axes.legend(fontsize=8)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    if one_legend:  # below the panels, where it hides no point
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return write_atomically(path, lambda unfinished: figure.savefig(unfinished, dpi=_DOTS_PER_INCH))


__all__ = ["Panel", "draw_panels"]
