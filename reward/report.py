"""How good a judge is: accuracy per task and dimension, in the form of table 1.

An answer is right if the order-averaged probability prefers the winner; a tie counts half.
``report.json`` in a judge's folder::

    {"format": 1,
     "cells": {"fill.structure": {"num_pairs": 616, "accuracy": 0.81, "low": 0.78, "high": 0.84,
                                  "swap_consistency": 0.87, "position_bias": 0.04}},
     "calibration": [{"low": 0.5, "high": 0.55, "num_pairs": 40, "mean_score": 0.52,
                      "accuracy": 0.55}]}
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..fill.io.files import write_text
from ..fill.io.json_text import label_of, quote, read_json, shorten
from ..fill.json_config import make_record
from ..fill.task import Dimension, Task

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""
NUM_BINS = 10
FILE_NAME = "report.json"
"""In the folder of a judge: how good it is. Training a policy reads it."""
FORMAT = 1
_ADVICE = "measure the judge again, or remove the file"
Cell = tuple[Task, Dimension]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A judge's two answers about a pair. Example: ``answer.score > 0.5`` where it is right."""

    criterion: Cell
    winner_first: float
    """P("Yes") with the winner first."""
    loser_first: float
    """P("Yes") with the loser first."""
    condition: str = ""
    """What the pair was made from, where several pairs may share it; empty: it shares nothing."""

    @property
    def score(self) -> float:
        """P(the winner is better), averaged over the two orders."""
        return (self.winner_first + 1 - self.loser_first) / 2

    @property
    def right(self) -> float:
        """1, 0, or one half for a tie."""
        return 0.5 if self.score == 0.5 else float(self.score > 0.5)

    @property
    def is_consistent(self) -> bool:
        """Whether swapping the images swaps the answer."""
        return (self.winner_first > 0.5) != (self.loser_first > 0.5)

    @property
    def position_bias(self) -> float:
        """How much more likely the answer is for the image that comes first, -1..1."""
        return self.winner_first + self.loser_first - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CellReport:
    """One cell of table 1. Example: ``report.cells[Task.FILL, Dimension.STRUCTURE].accuracy``."""

    num_pairs: int
    accuracy: float
    """Share of right answers, 0..1."""
    low: float
    """Lower end of the 95 % interval of the accuracy (Wilson), by conditions where they share."""
    high: float
    """Upper end."""
    swap_consistency: float
    """Share of pairs where swapping the images swaps the answer."""
    position_bias: float | None = None
    """Mean lean towards the image that comes first, -1..1; None in reports of older versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """Answers of similar confidence. Example: ``report.calibration[0].accuracy``."""

    low: float
    high: float
    num_pairs: int
    mean_score: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeReport:
    """A judge on held-out pairs. Example: ``make_report(answers).passes(criterion, 0.7)``."""

    cells: dict[Cell, CellReport]
    calibration: tuple[CalibrationBin, ...]
    """By confidence ``max(score, 1 - score)``, 0.5..1; empty bins are left out."""

    def passes(self, criterion: Cell, threshold: float) -> bool:
        """Whether a cell is judged well enough to train a policy on."""
        cell = self.cells.get(criterion)
        return cell is not None and cell.accuracy >= threshold


def make_report(answers: Sequence[Answer]) -> JudgeReport:
    """Summarise answers; ValueError if there are none."""
    if not answers:
        raise ValueError("there are no held-out pairs to report on; add conditions to the data")
    groups: dict[Cell, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.criterion].append(answer)
    return JudgeReport(
        cells={cell: _cell(group) for cell, group in sorted(groups.items())},
        calibration=_calibration(answers),
    )


def write_report(folder: Path, report: JudgeReport) -> None:
    """Put a report beside the judge it is about; the file is whole or not there."""
    values = {
        "format": FORMAT,
        "cells": {f"{t.value}.{d.value}": asdict(cell) for (t, d), cell in report.cells.items()},
        "calibration": [asdict(calibration_bin) for calibration_bin in report.calibration],
    }
    write_text(folder / FILE_NAME, json.dumps(values, indent=2) + "\n")


def read_report(folder: Path) -> JudgeReport | None:
    """Return the report in a judge's folder, or None if it has none.

    Raises:
        ValueError: The file is no report; names it.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    values = read_json(path, _ADVICE)
    try:
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is {quote(values.get('format'))}, but {FORMAT} is read")
        stored = make_record(_StoredReport, values, ignores_unknown=True)
        cells = {_cell_of(n): make_record(CellReport, cell) for n, cell in stored.cells.items()}
        bins = tuple(make_record(CalibrationBin, entry) for entry in stored.calibration)
    except ValueError as error:
        raise ValueError(
            shorten(f"{label_of(path)} is no report of a judge: {error}; {_ADVICE}")
        ) from error
    return JudgeReport(cells=cells, calibration=bins)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredReport:
    cells: Mapping[str, Mapping[str, Any]]
    calibration: tuple[Mapping[str, Any], ...]


def _cell_of(name: str) -> Cell:
    task, _, dimension = name.partition(".")
    names = {(t.value, d.value): (t, d) for t in Task for d in Dimension}
    if (task, dimension) not in names:
        raise ValueError(f"{quote(name)} is no task and dimension")
    return names[task, dimension]


def wilson_interval(share: float, num: float) -> tuple[float, float]:
    """Return the 95 % interval of a share among ``num`` independent trials.

    Source: E. B. Wilson, "Probable inference" (1927).
    """
    scale = 1 + Z_95**2 / num
    centre = (share + Z_95**2 / (2 * num)) / scale
    half = Z_95 / scale * math.sqrt(share * (1 - share) / num + Z_95**2 / (4 * num**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def sign_test(won: int, lost: int) -> float:
    """Return the two-sided p of so uneven a split if both were equally likely."""
    num = won + lost
    tail = sum(math.comb(num, k) for k in range(min(won, lost) + 1)) / 2**num
    return min(1.0, 2 * tail)


def report_cells(report: JudgeReport) -> list[list[str]]:
    """Return the form of table 1: accuracy in %, its interval, and the number of pairs."""
    tasks, judged_on = {task for task, _ in report.cells}, {d for _, d in report.cells}
    dimensions = [d for d in Dimension if d in judged_on]
    rows = [["", *(d.value.replace("_", " ") for d in dimensions)]]
    for task in Task:
        if task in tasks:
            rows.append([task.value, *(_format_cell(report, (task, d)) for d in dimensions)])
    return rows


def _format_cell(report: JudgeReport, criterion: Cell) -> str:
    cell = report.cells.get(criterion)
    if cell is None:
        return ""
    low, high = 100 * cell.low, 100 * cell.high
    return f"{100 * cell.accuracy:.1f} ({low:.0f}-{high:.0f}, n {cell.num_pairs})"


def _cell(group: Sequence[Answer]) -> CellReport:
    accuracy = sum(a.right for a in group) / len(group)
    low, high = wilson_interval(accuracy, _effective_number(group, accuracy))
    return CellReport(
        num_pairs=len(group),
        accuracy=accuracy,
        low=low,
        high=high,
        swap_consistency=sum(a.is_consistent for a in group) / len(group),
        position_bias=sum(a.position_bias for a in group) / len(group),
    )


def _effective_number(group: Sequence[Answer], accuracy: float) -> float:
    """Return how many independent pairs would be as sure.

    Pairs of one condition share its images and go right or wrong together. Source: L. Kish,
    "Survey Sampling" (1965): the number divided by the design effect, which is the variance of the
    mean by clusters over that of single answers.
    """
    off: dict[str, float] = defaultdict(float)
    for index, answer in enumerate(group):
        off[answer.condition or f"alone {index}"] += answer.right - accuracy
    alone = sum((answer.right - accuracy) ** 2 for answer in group)
    if not alone:  # all right or all wrong: nothing says how far a condition's pairs differ
        return len(off)
    effect = sum(deviation**2 for deviation in off.values()) / alone
    return len(group) / max(effect, 1.0)


def _calibration(answers: Sequence[Answer]) -> tuple[CalibrationBin, ...]:
    groups: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        confidence = max(answer.score, 1 - answer.score)
        groups[min(int((confidence - 0.5) * 2 * NUM_BINS), NUM_BINS - 1)].append(answer)
    return tuple(_calibration_bin(index, group) for index, group in sorted(groups.items()))


def _calibration_bin(index: int, group: Sequence[Answer]) -> CalibrationBin:
    return CalibrationBin(
        low=0.5 + index / (2 * NUM_BINS),
        high=0.5 + (index + 1) / (2 * NUM_BINS),
        num_pairs=len(group),
        mean_score=sum(max(a.score, 1 - a.score) for a in group) / len(group),
        accuracy=sum(a.right for a in group) / len(group),
    )
