"""Paired comparisons of usable images: scenes are counted, however many seeds look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ....reward.report import Z_95, sign_test

CLEAR = 0.05
"""A p below it is called a difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What differs between two models on the same scenes."""

    scenes: int
    before: float
    """Mean share of usable images of the baseline."""
    after: float
    """The model's own."""
    interval: tuple[float, float] | None
    """95 % interval of the difference over scenes (normal); None: too few, or all alike."""
    won: int
    """Scenes of which the model makes usable images more often than the baseline."""
    lost: int
    p: float
    """Two-sided sign test of won against lost."""

    @property
    def difference(self) -> float:
        """How much larger the model's share is."""
        return self.after - self.before

    @property
    def is_clear(self) -> bool:
        """Whether the scenes show a difference."""
        return self.p < CLEAR


def compare(before: Tensor, after: Tensor) -> Change:
    """Compare a model with its baseline, bool ``[B]``, or ``[R, B]`` with a row per seed.

    Seeds share their scenes, so that images of several are no independent trials: every scene
    counts once, by the mean over its seeds.
    """
    first, second = (one.double().reshape(-1, one.shape[-1]).mean(0) for one in (before, after))
    gaps = second - first
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    interval = None
    if won + lost and len(gaps) > 1:
        mean, half = float(gaps.mean()), Z_95 * float(gaps.std()) / len(gaps) ** 0.5
        interval = (mean - half, mean + half)
    return Change(
        scenes=len(gaps),
        before=float(first.mean()),
        after=float(second.mean()),
        interval=interval,
        won=won,
        lost=lost,
        p=sign_test(won, lost),
    )


def compare_tasks(rows: Mapping[str, Tensor], before: Tensor, after: Tensor) -> dict[str, Change]:
    """Compare on the scenes of every group; ``rows`` are bool ``[B]`` by name."""
    return {name: compare(before[..., own], after[..., own]) for name, own in rows.items()}


def rows_in_turn(counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Return which scenes are of each task, and all, where they come task by task."""
    total, start, found = sum(counts.values()), 0, {}
    for name, count in counts.items():
        place = torch.arange(total)
        found[name] = (place >= start) & (place < start + count)
        start += count
    return found | {"all": torch.ones(total, dtype=torch.bool)}
