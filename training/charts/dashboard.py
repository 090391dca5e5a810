"""What a run looks like from outside: its metrics as a chart, and images below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...fill.task import Task
from .contact_sheets import contact_sheet
from .plots import Series, plot, stack

CHART_SIZE = 988, 400
"""Width and height in pixels; as wide as six cells of the contact sheet."""
MAX_ROWS = 6
_SMOOTH = 0.9
"""Weight of the past in the lines; a single step is of few edits, so its reward jumps."""
_TASKS = tuple(task.value for task in Task)
_WHOLE = ("reward", "loss")
Record = Mapping[str, float]


def plot_dashboard(metrics: Sequence[Record], rows: Sequence[tuple[Tensor, ...]] = ()) -> Tensor:
    """Return ``[H, W, 3]``, 0..1: rewards by step, and below source, start and policy images.

    Args:
        metrics: Records with ``step`` and rewards by ``<task>.<dimension>``.
        rows: Images ``[H, W, 3]``, 0..1, that belong side by side.
    """
    lines = reward_lines(metrics)
    series = [
        Series(
            name=f"{name.replace('.', ': ').replace('_', ' ')} {points[-1][1]:.2f}",
            points=points,
            colour="black" if name in _WHOLE else "",
        )
        for name, points in sorted(lines.items(), key=lambda item: (item[0] in _WHOLE, item[0]))
    ]
    values = [value for points in lines.values() for _, value in points]
    limits = min([0.0, *values]), max([1.0, *values])  # at least 0 to 1, as probabilities have it
    last = max((record["step"] for record in metrics), default=1)
    title = "loss, smoothed" if "loss" in lines else "P(Yes) by task and dimension, smoothed"
    chart = plot(title, series, (0, max(last, 1)), limits, "step", CHART_SIZE)
    if not rows:
        return chart
    columns = 2 * len(rows[0]) if len(rows) > 1 else len(rows[0])
    sheet = contact_sheet([image for row in rows[:MAX_ROWS] for image in row], columns)[0]
    return stack([chart, sheet])[0]


def plot_judge_dashboard(metrics: Sequence[Record], steps: int) -> Tensor:
    """Return ``[H, W, 3]``, 0..1: loss and held-out accuracy of a judge's training by step."""
    loss = [(record["step"], record["loss"]) for record in metrics if "loss" in record]
    accuracy = [(record["step"], record["accuracy"]) for record in metrics if "accuracy" in record]
    labels = [*[""] * (len(accuracy) - 1), f"{accuracy[-1][1]:.3f}"] if accuracy else []
    highest = max([1.0, *(value for _, value in loss)])
    series = [
        Series(name="loss", points=loss),
        Series(name="held-out accuracy", points=accuracy, labels=labels),
    ]
    title = f"step {round(metrics[-1]['step'])} of {steps}" if metrics else "no step yet"
    return plot(title, series, (0, steps), (0, highest), "step")


def reward_lines(metrics: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """Return (step, smoothed reward) by cell; a cell has no point where no edit was drawn.

    Where nothing is rewarded (supervised learning) the loss is the one line.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    whole = "reward" if any("reward" in record for record in metrics) else "loss"
    for record in metrics:
        for name, value in record.items():
            task, _, dimension = name.partition(".")
            if name == whole or (task in _TASKS and "." not in dimension):
                line = lines.setdefault(name, [])
                past = line[-1][1] if line else value
                line.append((record["step"], _SMOOTH * past + (1 - _SMOOTH) * value))
    return lines
