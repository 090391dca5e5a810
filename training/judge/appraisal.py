"""A head that says how good a single picture is: a richer lesson than which of two is better.

A pair teaches one bit per dimension; a picture's own scores are numbers, and its difference from
the true result is one number per 8x8 px cell. The head reads both from what the vision tower passes
on, so that the tower learns what the oracle looks at; the judge's answer then only has to compare.
It is trained beside the judge and left behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reward.qwen_vl import Encoded
from ...world.conditions import TASKS
from ...world.marks import CELL
from ...world.oracle import DIMENSIONS
from ...world.splits import Split
from .candidates import load_candidates
from .gather import files_of, scenes_of

_FAINT = 0.02
"""A mean difference of a cell, 0..1, from which on the measure grows slowly."""


class Appraisal(nn.Module):
    """Linear layers on tokens: scores from their mean, differences from each."""

    def __init__(self, width: int, token_side: int) -> None:
        """Make an untrained head for tokens of ``token_side`` px."""
        super().__init__()
        self._cells = token_side // CELL
        self.scores = nn.Linear(width, len(TASKS) * len(DIMENSIONS))
        self.differences = nn.Linear(width, self._cells**2)
        # What the tokens carry should decide the first answers, not the head's chance weights.
        for layer in (self.scores, self.differences):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def score_loss(self, encoded: Sequence[Encoded], task: Tensor, scores: Tensor) -> Tensor:
        """Return the mean cross entropy against scores, above its least possible value.

        Args:
            encoded: the pictures.
            task: int64 `[N]`.
            scores: float32 `[N, D]` in 0..1; NaN where a task is not judged on a dimension.
        """
        means = torch.stack([one.tokens.float().mean(0) for one in encoded])
        logits = self.scores(means).view(len(means), len(TASKS), len(DIMENSIONS))
        logits = logits[torch.arange(len(means)), task]
        is_judged = ~scores.isnan()
        wanted = scores[is_judged].clamp(0.01, 0.99)
        least = F.binary_cross_entropy(wanted, wanted)
        return F.binary_cross_entropy_with_logits(logits[is_judged], wanted) - least

    def difference_loss(self, encoded: Sequence[Encoded], differences: Tensor) -> Tensor:
        """Return the mean squared error against `differences`, float32 `[N, 8, 8]`."""
        tokens = torch.stack([one.tokens.float() for one in encoded])
        rows, cols, side = encoded[0].rows, encoded[0].cols, self._cells
        out = self.differences(tokens).view(len(encoded), rows, cols, side, side)
        return F.mse_loss(out.transpose(2, 3).flatten(3, 4).flatten(1, 2), differences)


def differences_in(pool: Path, split: Split) -> Tensor:
    """Return how far each candidate's cells are from the true result, float16 `[G, M, 8, 8]`.

    The measure is log(1 + d / 0.02) of the mean absolute difference d; order as by
    `load_candidates`.
    """
    found: list[Tensor] = []
    for path in files_of(pool, split):
        made = load_candidates([path])
        target = scenes_of(path, len(made)).target[:, None]
        change = (made.images.float() / 255 - target).abs().mean(2)
        found.append((F.avg_pool2d(change, CELL) / _FAINT).log1p().half())
    return torch.cat(found)
