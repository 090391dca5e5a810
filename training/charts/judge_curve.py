"""The curve of a judge's training as an image: loss and held-out accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from .plots import Series, plot

Record = Mapping[str, float]


def read_metrics(run: Path) -> list[Record]:
    """Return the records of a run so far."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def plot_metrics(records: Sequence[Record], steps: int) -> Tensor:
    """Draw a run; ``[H, W, 3]``, 0..1."""
    loss = [(r["step"], r["loss"]) for r in records if "loss" in r]
    accuracy = [(r["step"], r["accuracy"]) for r in records if "accuracy" in r]
    highest = max([1.0, *(value for _, value in loss)])
    series = [
        Series(name="loss", points=loss),
        Series(name="held-out accuracy", points=accuracy, labels=_last_label(accuracy)),
    ]
    title = f"step {round(records[-1]['step'])} of {steps}" if records else "no step yet"
    return plot(title, series, (0, steps), (0, highest), "step")


def _last_label(points: Sequence[tuple[float, float]]) -> list[str]:
    return [*[""] * (len(points) - 1), f"{points[-1][1]:.3f}"] if points else []
