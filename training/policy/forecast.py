"""How much memory a run takes, told before anything is loaded.

The counts are of the published architecture (packed tokens, saved tensors per block) and lean
towards too much; `benchmarks/rl_step.py` puts them beside measured peaks.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...fill.latents import vae_factor
from ...fill.memory import sample_bytes
from ...fill.models import FillModels
from ...reward.qwen_vl import QwenJudge
from .config import PolicyTrainConfig


def policy_bytes(config: PolicyTrainConfig, models: FillModels, shape: Sequence[int]) -> int:
    """Return the activations of the policy's step with gradient, in bytes."""
    return sample_bytes(models, shape[0], shape[1])


def reward_bytes(
    config: PolicyTrainConfig,
    models: FillModels,
    judges: Sequence[QwenJudge],
    size: tuple[int, int],
    rows: int,
) -> int:
    """Return the activations of decoding and judging with gradient, in bytes."""
    pixels = size[0] * size[1] * vae_factor(models.vae_config) ** 2
    return rows * pixels * 4
