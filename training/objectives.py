"""The losses of training, as functions of probabilities and of squared errors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def dpo_loss(errors: Tensor, reference_errors: Tensor, beta: float) -> Tensor:
    """Return the loss of direct preference optimisation for rectified flow, ``[B]``.

    ``L = -log sigmoid(-beta / 2 * ((e_w - r_w) - (e_l - r_l)))``: the policy's error on the winner
    shall fall, against the reference's, by more than its error on the loser.

    Args:
        errors: The policy's ``mean |v - (noise - image)|^2`` of winner and loser, ``[B, 2]``, both
            at the same noise and noise level.
        reference_errors: The reference's, likewise.
        beta: Strength of the pull towards the reference; more learns less.

    Source: Diffusion-DPO (arXiv 2311.12908), eq. 14, with T and omega in beta; for rectified flow
    with a constant beta: Flow-DPO (arXiv 2501.13918), eq. 8 and sec. 4.1. Means over all values,
    as in both papers' code, so that beta does not depend on the size of the image.
    """
    gains = reference_errors - errors  # [B, 2]
    return -F.logsigmoid(beta / 2 * (gains[:, 0] - gains[:, 1]))


def optimality(rewards: Tensor, scale: Tensor | float) -> Tensor:
    """Return how good every candidate of a group is among its siblings, 0..1; 0.5 = average.

    ``r = 1/2 + 1/2 clip((reward - mean) / scale, -1, 1)``

    Args:
        rewards: ``[G, N]``: groups of candidates.
        scale: A typical deviation from a group's mean, above 0.

    Source: DiffusionNFT (arXiv 2509.16117), sec. 3.2.
    """
    advantages = (rewards - rewards.mean(dim=-1, keepdim=True)) / scale
    return 0.5 + 0.5 * advantages.clamp(-1, 1)


def negative_aware_loss(
    predictions: tuple[Tensor, Tensor],
    target: Tensor,
    sigma: Tensor,
    optimality: Tensor,
    beta: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the loss of negative-aware fine-tuning, ``[B]``.

    ``L = (r |x0(v+) - x0|^2 / w+ + (1 - r) |x0(v-) - x0|^2 / w-) / beta`` with
    ``v+ = (1 - beta) v_old + beta v`` and ``v- = (1 + beta) v_old - beta v``: good images pull the
    prediction, bad ones pull its mirror image. ``w`` is the mean absolute error, without gradient.

    Args:
        predictions: Velocity of the policy and of the one that made the image, ``[B, S, C]`` each.
        target: The true velocity ``noise - image``, likewise.
        sigma: Noise levels, ``[B]``; the errors of x0 are ``sigma`` times those of the velocity.
        optimality: r, ``[B]``, 0..1; see :func:`optimality`.
        beta: How far the two are apart; above 0.
        weights: How much each token counts, ``[B, S]``; None: all alike.

    Source: DiffusionNFT (arXiv 2509.16117), eq. 5 and sec. 3.3 (adaptive weights).
    """
    velocity, old_velocity = predictions
    positive = (1 - beta) * old_velocity + beta * velocity
    negative = (1 + beta) * old_velocity - beta * velocity

    def error(v: Tensor) -> Tensor:
        difference = sigma[:, None, None] * (target - v)  # [B, S, C]
        size = token_mean(difference.detach().abs(), weights).clamp(min=1e-5)
        return token_mean(difference.square(), weights) / size

    return (optimality * error(positive) + (1 - optimality) * error(negative)) / beta


def token_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over tokens and channels of ``[B, S, C]``, ``[B]``, tokens weighted."""
    by_token = values.mean(dim=2)
    if weights is None:
        return by_token.mean(dim=1)
    return (by_token * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-6)
