"""What a run looks like from outside: few lines, large, to be read in a node of 300 pixels.

The mean reward is one thick line. Below, each task has its own small chart with a line for each
dimension; words in the lines' colours take the place of legends. Below those are edits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...fill.task import Dimension, Task
from .plots import DPI, stack
from .strips import Strip, draw_strips

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MAIN_HEIGHT, TASKS_HEIGHT = 640, 240, 200
"""In pixels."""
MAX_STRIPS = 4
COLUMNS = ("source", "start", "now")
_SMOOTH = 0.9
"""Weight of the past in the lines; a single step is of few edits, so its reward jumps."""
_TASKS = tuple(task.value for task in Task)
_INK, _GREY, _FAINT = "#1a1a1a", "#808080", "#dcdcdc"
"""Of what is about all edits; colours are of dimensions."""
_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
"""Of Okabe and Ito: the colour-blind can tell them apart."""
_COLOURS = dict(zip(Dimension, _PALETTE, strict=True))
_LARGE, _MIDDLE, _SMALL = 15, 13.5, 12
"""Sizes of text in points: about 10, 9 and 8 pixels in a node of 300."""
_LEAST_RANGE = 0.2
Record = Mapping[str, float]
Points = Sequence[tuple[float, float]]


def plot_dashboard(
    metrics: Sequence[Record], strips: Sequence[Strip] = (), edits: Tensor | None = None
) -> Tensor:
    """Return ``[H, W, 3]``, 0..1: rewards by step, and below source, start and policy images.

    Args:
        metrics: Records with ``step`` and rewards by ``<task>.<dimension>``.
        strips: Edits with the images that :data:`COLUMNS` name.
        edits: The same, drawn already by :func:`draw_edits`.
    """
    lines = reward_lines(metrics)
    tasks = [task for task in _TASKS if any(name.startswith(f"{task}.") for name in lines)]
    height = MAIN_HEIGHT + (TASKS_HEIGHT if tasks else 0)
    with _figure(height) as (figure, images):
        main, *parts = _layout(figure, len(tasks))
        limits = _limits([*lines.values(), _points(metrics, "eval")])
        _draw_main(main, metrics, lines, limits)
        for index, (axes, task) in enumerate(zip(parts, tasks, strict=True)):
            _draw_task(axes, task, lines, limits)
            axes.tick_params(labelleft=index == 0)
        if tasks:
            _draw_key(figure, lines)
    if strips:
        edits = draw_edits(strips)
    return stack([*images, *([] if edits is None else [edits])])[0]


def draw_edits(strips: Sequence[Strip]) -> Tensor:
    """Return ``[H, W, 3]``, 0..1 in steps of 1/255: the first edits, at least one."""
    return draw_strips(strips[:MAX_STRIPS], COLUMNS, WIDTH)


def plot_judge_dashboard(metrics: Sequence[Record], steps: int) -> Tensor:
    """Return ``[H, W, 3]``, 0..1: loss and held-out accuracy of a judge's training by step."""
    loss, accuracy = _points(metrics, "loss"), _points(metrics, "accuracy")
    with _figure(MAIN_HEIGHT) as (figure, images):
        (axes,) = _layout(figure, 0)
        last = loss[-1][1] if loss else 0.0
        axes.set(xlim=(0, steps), ylim=(0, 1.05 * max(last, 1.0)))
        _draw(axes, loss, _GREY, 2.5, is_cut=True)  # the first steps' may be far above 1
        _draw(axes, accuracy, _INK, 5, marker="o")
        step = f"step {round(metrics[-1]['step'])}/{steps}" if metrics else "no step yet"
        names = {"held-out accuracy": (accuracy, _INK), "loss": (loss, _GREY)}
        _draw_header(axes, names, step)
    return images[0]


def reward_lines(metrics: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """Return (step, smoothed reward) by cell; a cell has no point where no edit was drawn.

    Where nothing is rewarded (supervised learning) the loss is the one line.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    whole = _whole(metrics)
    for record in metrics:
        for name, value in record.items():
            task, _, dimension = name.partition(".")
            if name == whole or (task in _TASKS and "." not in dimension):
                line = lines.setdefault(name, [])
                past = line[-1][1] if line else value
                line.append((record["step"], _SMOOTH * past + (1 - _SMOOTH) * value))
    return lines


def _whole(metrics: Sequence[Record]) -> str:
    return "reward" if any("reward" in record for record in metrics) else "loss"


def _points(metrics: Sequence[Record], name: str) -> list[tuple[float, float]]:
    return [(record["step"], record[name]) for record in metrics if name in record]


@contextmanager
def _figure(height: int) -> Iterator[tuple[Figure, list[Tensor]]]:
    """Give a figure to draw on, and put its image ``[H, W, 3]`` into the list at the end."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images: list[Tensor] = []
    with matplotlib.style.context("default"):  # whatever the user's own matplotlibrc says
        figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        yield figure, images
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # [H, W, 3]
    images.append(torch.from_numpy(pixels.astype(np.float32) / 255))


def _layout(figure: Figure, num_tasks: int) -> list[Axes]:
    """Return the main chart, then one for each task in a row below."""
    height = figure.get_figheight() * DPI

    def add(left: float, top: float, width: float, tall: float) -> Axes:
        box = (left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height)
        axes: Any = figure.add_axes(box)
        axes.grid(axis="y", color="#e4e4e4")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=_SMALL, length=0, colors="#505050")
        axes.locator_params(axis="x", integer=True, nbins=5)
        axes.locator_params(axis="y", nbins=4)
        return axes

    charts = [add(60, 42, WIDTH - 90, MAIN_HEIGHT - 78)]
    wide = (WIDTH - 60 - 20) / max(num_tasks, 1)
    for index in range(num_tasks):
        axes = add(60 + index * wide, MAIN_HEIGHT + 30, wide - 12, TASKS_HEIGHT - 80)
        axes.set_xticks([])
        charts.append(axes)
    return charts


def _limits(lines: Sequence[Points]) -> tuple[float, float]:
    """Return the range of all charts, in tenths, so that they can be compared."""
    values = [value for points in lines for _, value in points] or [0.0, 1.0]
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
    return (low, high) if high - low >= _LEAST_RANGE else (low - 0.1, high + 0.1)


def _draw_main(
    axes: Axes,
    metrics: Sequence[Record],
    lines: Mapping[str, Points],
    limits: tuple[float, float],
) -> None:
    """Draw the mean thick, with what it smooths behind, and the score on held-out edits."""
    whole = _whole(metrics)
    last = max((record["step"] for record in metrics), default=1)
    smooth, held_out = lines.get(whole, []), _points(metrics, "eval")
    axes.set(xlim=(0, max(last, 1)), ylim=limits)
    _draw(axes, _points(metrics, whole), _FAINT, 1.5, is_cut=True)
    _draw(axes, held_out, _GREY, 2.5, marker="o")
    _draw(axes, smooth, _INK, 5)
    mean = "mean reward" if whole == "reward" else "loss"
    names = {mean: (smooth, _INK), "held-out edits": (held_out, _GREY)}
    _draw_header(axes, names, f"step {round(last)}" if metrics else "no step yet")


def _draw_task(
    axes: Axes, task: str, lines: Mapping[str, Points], limits: tuple[float, float]
) -> None:
    """Draw the dimensions of one task."""
    cells = {name: points for name, points in lines.items() if name.startswith(f"{task}.")}
    steps = [step for points in lines.values() for step, _ in points]
    axes.set(xlim=(0, max(*steps, 1)), ylim=limits)
    for name, points in cells.items():
        _draw(axes, points, _colour(name), 2.5)
    mean = sum(points[-1][1] for points in cells.values()) / len(cells)
    axes.set_title(f"{task} {mean:.2f}", loc="left", fontsize=_MIDDLE, color=_INK)


def _draw_key(figure: Figure, lines: Mapping[str, Points]) -> None:
    """Write the dimensions in their colours along the bottom."""
    present = {name.partition(".")[2] for name in lines}
    words = [
        (d.value.replace("_", " "), _COLOURS[d], "normal") for d in Dimension if d.value in present
    ]
    _draw_words(figure, words, _SMALL, "lower center", 0.5, 0.0)


def _draw_header(axes: Axes, names: Mapping[str, tuple[Points, str]], step: str) -> None:
    """Write above a chart what its lines are and where they end, in their colours."""
    words = [
        (f"{name} {points[-1][1]:.2f}", colour, "bold")
        for name, (points, colour) in names.items()
        if points
    ]
    _draw_words(axes, words, _LARGE, "lower left", 0.0, 1.02)
    end = axes.text(1, 1.06, step, transform=axes.transAxes, ha="right", fontsize=_SMALL)
    end.set_color("#505050")


def _draw_words(
    owner: Any, words: Sequence[tuple[str, str, str]], size: int, where: str, x: float, y: float
) -> None:
    """Write words in a row: text, colour, weight."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    areas: list[Any] = [
        TextArea(text, textprops={"color": colour, "fontsize": size, "fontweight": weight})
        for text, colour, weight in words
    ]
    transform = owner.transAxes if hasattr(owner, "transAxes") else owner.transFigure
    owner.add_artist(
        AnchoredOffsetbox(
            where,
            child=HPacker(children=areas, sep=14),
            frameon=False,
            pad=0.2,
            borderpad=0,
            bbox_to_anchor=(x, y),
            bbox_transform=transform,
        )
    )


def _draw(
    axes: Axes, points: Points, colour: str, width: float, marker: str = "", is_cut: bool = False
) -> None:
    """Draw a line, cut at the chart's edge or whole; a single point is a dot."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    axes.plot(
        xs,
        ys,
        color=colour,
        linewidth=width,
        marker=marker or ("o" if len(xs) == 1 else ""),
        markersize=width + 4,
        solid_capstyle="round",
        clip_on=is_cut,
    )


def _colour(cell: str) -> str:
    dimension = cell.partition(".")[2]
    return next((_COLOURS[d] for d in Dimension if d.value == dimension), _GREY)
