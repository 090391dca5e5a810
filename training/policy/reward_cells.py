"""Which cells are rewarded: what a judge gets wrong on held-out pairs must not be learned from it.

In the small, exactly the task x dimension cells that the judge got right on real held-out pairs
(77 % and more) gained from training, and those near chance lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...fill.task import TASKS, Task
from ...reward.ensemble import members_of
from ...reward.judge import Judge
from ...reward.query import Query
from ...reward.report import Cell, JudgeReport, read_report
from .config import PolicyTrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCells:
    """Which task x dimension cells take part in the loss.

    Example: ``reward_cells_of(config, judges).allowed(queries_for(task, prompt))``.
    """

    cells: frozenset[Cell]
    notes: tuple[str, ...] = ()
    """What was left out and why, for the user."""

    def allowed(self, queries: Sequence[Query]) -> tuple[Query, ...]:
        """Return the queries that take part."""
        return tuple(q for q in queries if q.criterion in self.cells)


def reward_cells_of(config: PolicyTrainConfig, judges: Sequence[Judge]) -> RewardCells:
    """Return the cells of a run, from the reports beside its judges.

    Raises:
        ValueError: Nothing is left.
    """
    if not config.needs_judge:
        return RewardCells(cells=frozenset(ALL_CELLS))
    members = [member for judge in judges for member in members_of(judge)]
    reports = [read_report(judge.folder) if judge.folder else None for judge in members]
    return select_reward_cells(reports, config.min_judge_accuracy)


ALL_CELLS: tuple[Cell, ...] = tuple((task, d) for task in Task for d in TASKS[task].dimensions)


def select_reward_cells(reports: Sequence[JudgeReport | None], threshold: float) -> RewardCells:
    """Return the cells that every judge's report passes; a judge without a report is trusted.

    Args:
        reports: One per judge.
        threshold: Least accuracy, 0..1; 0 lets everything in.

    Raises:
        ValueError: Nothing is left.
    """
    notes = []
    if threshold > 0 and None in reports:
        notes.append("a judge has no report of its accuracy, so nothing is left out because of it")
    known_reports = [r for r in reports if r is not None] if threshold > 0 else []
    cells = []
    for cell in ALL_CELLS:
        if failing := [r for r in known_reports if not r.passes(cell, threshold)]:
            notes.append(f"{_name(cell)} is left out: {_reason(failing[0], cell, threshold)}")
        else:
            cells.append(cell)
    if not cells:
        raise ValueError(
            f"the judge is below {threshold:.0%} on held-out pairs in every task and dimension, so "
            "there is nothing it could teach; train the judge longer, or lower min_judge_accuracy"
        )
    return RewardCells(cells=frozenset(cells), notes=tuple(notes))


def _name(cell: Cell) -> str:
    return f"{cell[0].value}, {cell[1].value.replace('_', ' ')}"


def _reason(report: JudgeReport, cell: Cell, threshold: float) -> str:
    result = report.cells.get(cell)
    if result is None:
        return "the judge's report has no held-out pairs of it"
    return (
        f"the judge is right on {result.accuracy:.1%} of {result.num_pairs} held-out pairs, below "
        f"{threshold:.0%}"
    )
