"""How far a judge's probabilities can be taken at their word, and a judge that corrects its own.

A temperature T per task and dimension turns P into sigmoid(logit(P) / T): differentiable, and the
order of two answers stays. Isotonic regression fits any rising curve, which takes more pairs; it
rises in steps, so no gradient passes and it cannot be a training reward. Cells of few pairs use the
temperature of all pairs together. ``calibration.json``, whole::

    {"format": 1, "judge": "c4d9e1a2b3c4d5e6", "method": "temperature", "temperature": 1.8,
     "num_pairs": 640, "temperatures": {"fill.structure": 2.1}, "steps": {}, "view": "crop"}

``steps`` holds, for isotonic cells, the curve's corners: ``[[0.1, 0.2], [0.7, 0.9]]`` are values of
P and what they become. Source: C. Guo et al., "On Calibration of Modern Neural Networks" (2017).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..fill.io.files import write_text
from ..fill.io.json_text import label_of, quote, read_json, shorten
from ..fill.json_config import JsonConfig, setting
from .report import Answer, Cell

FILE_NAME = "calibration.json"
TEMPERATURE, ISOTONIC = METHODS = ("temperature", "isotonic")
LIMITS = (0.05, 20.0)
"""Of a temperature: beyond, a judge is as good as never or always sure."""
EDGE = 1e-6
"""Probabilities nearer to 0 or 1 count as this far from it."""
LEAST_PAIRS = 5
"""Fewer say nothing about a judge."""
_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(JsonConfig):
    """A judge's correction. Example: ``Calibration(judge=judge.identity, temperature=1.8)``."""

    judge: str
    """Identity of the judge that it was made of."""
    method: str = setting(TEMPERATURE, "temperature or isotonic.", options=METHODS)
    temperature: float = setting(1.0, "Of all pairs.", min=LIMITS[0], max=LIMITS[1])
    num_pairs: int = setting(0, "Pairs that it was made of.", min=0, max=1 << 40)
    temperatures: dict[str, float] = field(default_factory=dict)
    """By ``task.dimension``, of cells with enough pairs."""
    steps: dict[str, Any] = field(default_factory=dict)
    """By ``task.dimension``: corners of the curve, as pairs of numbers that rise."""
    view: str = ""
    """How the judge was shown the images, and should be."""

    def __post_init__(self) -> None:
        """Refuse temperatures and curves that are none."""
        JsonConfig.__post_init__(self)
        for cell, value in self.temperatures.items():
            if not LIMITS[0] <= value <= LIMITS[1]:
                raise ValueError(
                    f"the temperature of {quote(cell)} is {quote(value)}, but {LIMITS[0]:g} to "
                    f"{LIMITS[1]:g} is expected"
                )
        for cell, corners in self.steps.items():
            if not _is_curve(corners):
                raise ValueError(
                    f"the steps of {quote(cell)} are no rising pairs of numbers of 0 to 1"
                )

    def applied(self, p: torch.Tensor, cells: Sequence[str]) -> torch.Tensor:
        """Return calibrated probabilities, float32, ``[N]``; differentiable by temperature.

        Args:
            p: P(the first image is better), ``[N]``, 0..1.
            cells: ``task.dimension`` of each.
        """
        p = p.float()
        temperatures = [self.temperatures.get(cell, self.temperature) for cell in cells]
        scale = torch.tensor(temperatures, dtype=torch.float32, device=p.device)
        calibrated = torch.sigmoid(torch.logit(p, eps=EDGE) / scale)
        rows = [i for i, cell in enumerate(cells) if cell in self.steps]
        if not rows:
            return calibrated
        calibrated = calibrated.detach().clone()
        for row in rows:
            x, y = zip(*self.steps[cells[row]], strict=True)
            calibrated[row] = float(np.interp(float(p[row]), x, y))
        return calibrated

    def save(self, folder: Path) -> None:
        """Write it into a folder, at once."""
        write_text(folder / FILE_NAME, self.to_json() + "\n")


def read_calibration(folder: Path) -> Calibration:
    """Read what :meth:`Calibration.save` has written.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged; names it.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {label_of(path)}; calibrate the judge with preferences first"
        )
    text = json.dumps(read_json(path, "calibrate the judge again"))
    try:
        return Calibration.from_json(text)
    except ValueError as error:
        raise ValueError(
            shorten(f"{label_of(path)}: {error}; calibrate the judge again")
        ) from error


def cell_name(cell: Cell) -> str:
    """Return ``task.dimension``."""
    return f"{cell[0].value}.{cell[1].value}"


def fit_calibration(
    answers: Sequence[Answer], judge: str, method: str = TEMPERATURE, min_pairs: int = 30
) -> Calibration:
    """Return the calibration that makes a judge's answers about known pairs most likely.

    Args:
        answers: In both orders; the answer of each order counts by itself.
        judge: Identity of the judge that gave them.
        method: For cells with enough pairs.
        min_pairs: Pairs that a cell needs for a calibration of its own.

    Raises:
        ValueError: There are too few answers, or the method is unknown.
    """
    if len(answers) < LEAST_PAIRS:
        raise ValueError(
            f"calibration has {len(answers)} of the {LEAST_PAIRS} pairs that it needs at least; "
            "label more conditions, or choose another split"
        )
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[cell_name(answer.criterion)].append(answer)
    enough = {cell: _both(group) for cell, group in groups.items() if len(group) >= min_pairs}
    is_isotonic = method == ISOTONIC
    return Calibration(
        judge=judge,
        method=method,
        temperature=_fit_temperature(_both(answers)),
        num_pairs=len(answers),
        temperatures={c: _fit_temperature(data) for c, data in enough.items() if not is_isotonic},
        steps={c: _fit_steps(data) for c, data in enough.items() if is_isotonic},
    )


def held_out_answers(
    answers: Sequence[Answer], method: str = TEMPERATURE, min_pairs: int = 30
) -> list[Answer]:
    """Return answers as calibrated without their own condition, for an honest report.

    The conditions are dealt into 5 folds; each fold is calibrated by the pairs of the others. With
    fewer than two conditions, or pairs that know none, each pair counts as a condition.
    """
    names = [answer.condition or f"\0{index}" for index, answer in enumerate(answers)]
    if len(set(names)) < 2:
        names = [str(index) for index in range(len(answers))]
    order = {name: index for index, name in enumerate(sorted(set(names)))}
    folds = [order[name] % _FOLDS for name in names]
    results: list[Answer] = list(answers)
    for fold in set(folds):
        other_folds = [a for a, f in zip(answers, folds, strict=True) if f != fold]
        if len(other_folds) < LEAST_PAIRS:
            continue  # too few to say more than the judge itself
        calibration = fit_calibration(other_folds, "", method, min_pairs)
        for index, answer in enumerate(answers):
            if folds[index] == fold:
                results[index] = calibrated_answer(calibration, answer)
    return results


def calibrated_answer(calibration: Calibration, answer: Answer) -> Answer:
    """Return an answer with both its probabilities calibrated."""
    p = torch.tensor([answer.winner_first, answer.loser_first])
    first, second = calibration.applied(p, [cell_name(answer.criterion)] * 2).tolist()
    return replace(answer, winner_first=first, loser_first=second)


def log_loss(answers: Sequence[Answer]) -> float:
    """Return the mean of -log P(what is true) of both orders; 0.693 = knows nothing.

    Source: the logarithmic score; lower is better.
    """
    p, y = _both(answers)
    return float(-np.log(np.clip(np.where(y > 0.5, p, 1 - p), EDGE, 1.0)).mean())


class _Data(NamedTuple):
    p: np.ndarray
    """P(Yes), ``[2 N]``, float64."""
    y: np.ndarray
    """1 where Yes is right, else 0."""


def _both(answers: Sequence[Answer]) -> _Data:
    p = [v for answer in answers for v in (answer.winner_first, answer.loser_first)]
    return _Data(np.array(p, dtype=np.float64), np.tile([1.0, 0.0], len(answers)))


def _fit_temperature(data: _Data) -> float:
    """Return the temperature of least log-loss, within its limits."""
    from scipy.optimize import minimize_scalar

    p = np.clip(data.p, EDGE, 1 - EDGE)
    signs = np.where(data.y > 0.5, 1.0, -1.0)
    logits = signs * np.log(p / (1 - p))

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -logits / math.exp(log_temperature)).mean())

    bounds = tuple(map(math.log, LIMITS))
    best: Any = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.clip(math.exp(best.x), *LIMITS))


def _fit_steps(data: _Data) -> list[list[float]]:
    """Return the corners of the rising curve of least squares, off 0 and 1 as few pairs allow."""
    from scipy.optimize import isotonic_regression

    # Pairs of the same P count together.
    x, places = np.unique(data.p, return_inverse=True)
    weights = np.bincount(places).astype(float)
    means = np.bincount(places, weights=data.y) / weights
    edge = 1 / (len(data.p) + 2)
    y = np.clip(isotonic_regression(means, weights=weights).x, edge, 1 - edge)
    # Only both ends of each step are corners.
    is_corner = np.ones(len(x), dtype=bool)
    is_corner[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return [[float(a), float(b)] for a, b in zip(x[is_corner], y[is_corner], strict=True)]


def _is_curve(corners: Any) -> bool:
    try:
        points = np.array(corners, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    if points.ndim != 2 or points.shape[1:] != (2,) or not len(points):
        return False
    x, y = points.T
    is_rising = bool((np.diff(x) > 0).all() and (np.diff(y) >= 0).all())
    return is_rising and bool(((points >= 0) & (points <= 1)).all())
