"""Line plots as images, for nodes and reports; drawn by matplotlib, which needs no display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 640, 360
"""Of a plot, in pixels."""
DPI = 100
PADDING = 0.02
"""Room around the limits, so that lines on them are drawn in full width."""
MAX_LEGEND_INSIDE = 4
"""With more lines the legend stands beside the plot."""
COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2"),
    *("#7f7f7f", "#bcbd22", "#393b79", "#637939", "#8c6d31", "#843c39"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a plot.

    Example: ``Series(name="loss", points=[(0, 0.7), (100, 0.4)])``.
    """

    name: str
    points: Sequence[tuple[float, float]]
    """x and y."""
    labels: Sequence[str] = ()
    """A text per point, drawn beside a dot; empty: a line without dots."""
    colour: str = ""
    """As ``#rrggbb`` or a name; empty: by the position among the series."""


def plot(
    title: str,
    series: Sequence[Series],
    x: tuple[float, float],
    y: tuple[float, float],
    x_label: str = "",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Tensor:
    """Draw series between limits; return ``[H, W, 3]``, float32, 0..1."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):  # whatever the user's own matplotlibrc says
        inches = (size[0] / DPI, size[1] / DPI)
        figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set(xlim=_padded(x), ylim=_padded(y))
        axes.set_xlabel(x_label, fontsize=12)
        axes.tick_params(labelsize=12)
        axes.set_title(title, loc="left", fontsize=14, pad=18)  # above the labels
        if all(isinstance(limit, int) for limit in x):  # steps: there is no half one
            axes.locator_params(axis="x", integer=True)
        axes.grid(color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        for index, line in enumerate(series):
            _draw(axes, line, line.colour or COLOURS[index % len(COLOURS)])
        if any(line.name for line in series):
            is_inside = len(series) <= MAX_LEGEND_INSIDE
            owner, where = (axes, "best") if is_inside else (figure, "outside right upper")
            owner.legend(loc=where, fontsize=11, frameon=is_inside)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # [H, W, 3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _padded(limits: tuple[float, float]) -> tuple[float, float]:
    room = PADDING * ((limits[1] - limits[0]) or 1)
    return limits[0] - room, limits[1] + room


def _draw(axes: Axes, line: Series, colour: str) -> None:
    """Draw a line, with a dot for a single point or for points that have labels."""
    marker = "o" if line.labels or len(line.points) == 1 else ""
    xs, ys = [point[0] for point in line.points], [point[1] for point in line.points]
    axes.plot(xs, ys, color=colour, label=line.name, linewidth=2.5, marker=marker, markersize=6)
    left, right = axes.get_xlim()
    for point, label in zip(line.points, line.labels, strict=False):
        is_late = point[0] > left + 0.85 * (right - left)
        axes.annotate(
            label,
            point,
            (-5 if is_late else 5, 4),
            textcoords="offset points",
            color=colour,
            fontsize=11,
            ha="right" if is_late else "left",
        )


def stack(images: Sequence[Tensor]) -> Tensor:
    """Put images ``[H, W, 3]`` under each other on white; return ``[1, H, W, 3]``."""
    width = max(image.shape[1] for image in images)
    sheet = torch.ones(sum(image.shape[0] for image in images), width, 3)
    top = 0
    for image in images:
        height, image_width = image.shape[:2]
        sheet[top : top + height, :image_width] = image
        top += height
    return sheet[None]
