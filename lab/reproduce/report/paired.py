"""Paired comparisons of usable images: every scene counts once, however many seeds painted it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....reward.report import Z_95, sign_test, wilson_interval

ALPHA = 0.05
"""A p below it is called a difference."""
BETTER, WORSE, NO_DIFFERENCE, EQUAL = "better", "worse", "no difference", "equal"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChange:
    """Change of the share of usable images between a baseline and a model on the same scenes.

    Example: ``compare(torch.tensor([True, False]), torch.tensor([True, True])).won == 1``.
    """

    scenes: int
    before: float
    """Mean share of usable images of the baseline."""
    after: float
    """The model's."""
    interval: tuple[float, float] | None
    """95 % interval of the change over scenes (normal); None: one scene, or no scene differs."""
    won: int
    """Scenes of which the model makes usable images more often than the baseline."""
    lost: int
    p: float
    """Two-sided sign test of won against lost."""

    def numbers(self) -> dict[str, Any]:
        """Return everything as JSON values, with the change and the outcome in a word."""
        return {
            "scenes": self.scenes,
            "before": self.before,
            "after": self.after,
            "change": self.after - self.before,
            "interval": self.interval,
            "won": self.won,
            "lost": self.lost,
            "p": self.p,
            "outcome": self.outcome(),
        }

    def outcome(self) -> str:
        """Return ``better`` or ``worse`` where p is below 0.05, else ``no difference``.

        ``equal``: no scene differs at all.
        """
        if not self.won + self.lost:
            return EQUAL
        if self.p >= ALPHA:
            return NO_DIFFERENCE
        return BETTER if self.won > self.lost else WORSE


def compare(before: Tensor, after: Tensor) -> PairedChange:
    """Compare a model with its baseline, bool ``[B]``, or ``[R, B]`` with a row per seed.

    Seeds share their scenes, so that images of several seeds are no independent trials: every
    scene counts once, by the mean over its seeds.
    """
    baseline = before.double().reshape(-1, before.shape[-1]).mean(0)  # [B]
    model = after.double().reshape(-1, after.shape[-1]).mean(0)  # [B]
    gaps = model - baseline
    won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
    interval = None
    if won + lost and len(gaps) > 1:
        mean, half = float(gaps.mean()), Z_95 * float(gaps.std()) / len(gaps) ** 0.5
        interval = (mean - half, mean + half)
    return PairedChange(
        scenes=len(gaps),
        before=float(baseline.mean()),
        after=float(model.mean()),
        interval=interval,
        won=won,
        lost=lost,
        p=sign_test(won, lost),
    )


def compare_tasks(
    rows: Mapping[str, Tensor], before: Tensor, after: Tensor
) -> dict[str, PairedChange]:
    """Compare on the scenes of every group; ``rows`` are bool ``[B]`` by name."""
    return {name: compare(before[..., group], after[..., group]) for name, group in rows.items()}


def rows_in_turn(counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Return which scenes are of each task, and all, where they come task by task."""
    total, start, rows = sum(counts.values()), 0, {}
    index = torch.arange(total)
    for name, count in counts.items():
        rows[name] = (index >= start) & (index < start + count)
        start += count
    return rows | {"all": torch.ones(total, dtype=torch.bool)}


def share_numbers(share: float | None, count: int) -> dict[str, Any] | None:
    """Return a share of so many trials with its 95 % interval (Wilson); None: no trials."""
    if share is None or count < 1:
        return None
    return {"share": share, "count": count, "interval": wilson_interval(share, count)}


def compare_shares(share: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Return whether a share is better or worse than another: if their intervals do not overlap."""
    if share["interval"][0] > baseline["interval"][1]:
        return BETTER
    return WORSE if share["interval"][1] < baseline["interval"][0] else NO_DIFFERENCE
