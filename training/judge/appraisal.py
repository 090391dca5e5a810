"""A head that says how good a single picture is: a richer lesson than which of two is better.

A pair teaches one bit per dimension, a picture's own score a number. The head reads the mean of
what the vision tower passes on, so that the tower learns what the oracle looks at; the judge's
answer then only has to compare. It is trained beside the judge and left behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reward.qwen_vl import Encoded
from ...world.conditions import TASKS
from ...world.oracle import DIMENSIONS


class Appraisal(nn.Module):
    """One linear layer per task and dimension on a picture's mean token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, len(TASKS) * len(DIMENSIONS))
        # What the tokens carry should decide the first answers, not the head's chance weights.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, encoded: Sequence[Encoded], task: Tensor) -> Tensor:
        """Return the logits of the scores, `[N, D]`, for tasks int64 `[N]`."""
        means = torch.stack([one.tokens.float().mean(0) for one in encoded])
        logits = self.head(means).view(len(means), len(TASKS), len(DIMENSIONS))
        return logits[torch.arange(len(means)), task]


def appraisal_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Return the mean cross entropy against scores 0..1, above its least possible value.

    Args:
        logits: float32 `[N, D]`.
        scores: float32 `[N, D]`; NaN where a task is not judged on a dimension.
    """
    is_judged = ~scores.isnan()
    wanted = scores[is_judged].clamp(0.01, 0.99)
    least = F.binary_cross_entropy(wanted, wanted)
    return F.binary_cross_entropy_with_logits(logits[is_judged], wanted) - least
