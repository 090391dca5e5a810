"""The losses of the paper, as functions of probabilities."""

from __future__ import annotations

import torch
from torch import Tensor


def preference_loss(log_yes: Tensor, log_no: Tensor) -> Tensor:
    """Return the judge's loss over preference pairs.

    ``L = -1/2 E[ log P("Yes" | winner, loser, q) + log P("No" | loser, winner, q) ]``

    Args:
        log_yes: log P("Yes") with the winner first, ``[B]``.
        log_no: log P("No") with the loser first, ``[B]``.

    Source: OneReward, eq. 3.
    """
    return -0.5 * (log_yes + log_no).mean()


def reward_loss(probabilities: Tensor, cap: float) -> Tensor:
    """Return the policy's loss for one sample: the mean hinge over the task's dimensions.

    ``J_e = max(0, lambda - P("Yes" | evaluated, reference, q_e))``; the cap keeps the policy from
    chasing a judge that is sure already.

    Args:
        probabilities: P("Yes") per dimension, ``[E]`` or ``[B, E]``.
        cap: lambda, above 0 and at most 1.

    Raises:
        ValueError: The cap is outside (0, 1].

    Source: OneReward, sec. 4.4.
    """
    if not 0 < cap <= 1:
        raise ValueError(f"lambda is {cap}, but more than 0 and at most 1 is expected")
    return torch.relu(cap - probabilities).mean()
