"""Noise levels: sigma 1 is noise, sigma 0 the image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def make_sigmas(
    scheduler_config: Mapping[str, Any], steps: int, num_tokens: int, shift: float = -1.0
) -> torch.Tensor:
    """Return ``steps + 1`` strictly falling sigmas, float32, from at most 1 to 0.

    Args:
        scheduler_config: Config of the model's ``FlowMatchEulerDiscreteScheduler``.
        steps: Number of Euler steps.
        num_tokens: Packed latents of the image; more of them shift the schedule towards noise.
        shift: Fixed shift s, ``sigma' = s * sigma / (1 + (s - 1) * sigma)``; -1: by the scheduler.

    Source: diffusers, ``calculate_shift`` and ``FlowMatchEulerDiscreteScheduler.set_timesteps``.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    overrides: dict[str, Any] = {}
    if shift > 0:
        overrides = {"use_dynamic_shifting": False, "shift": shift, "shift_terminal": None}
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(
        dict(scheduler_config), **overrides
    )
    mu = make_mu(scheduler.config, num_tokens) if scheduler.config.use_dynamic_shifting else None
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=mu)
    return scheduler.sigmas.to(torch.float32)


def make_mu(config: Mapping[str, Any], num_tokens: int) -> float:
    """Return the exponent of the shift for an image of so many packed latents.

    Source: diffusers, ``calculate_shift``.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return base + (num_tokens - low) * (top - base) / (high - low)


def truncate_schedule(sigmas: torch.Tensor, denoise: float) -> torch.Tensor:
    """Return the last ``denoise`` share of a schedule, at least one step.

    Source: diffusers, ``FluxFillPipeline.get_timesteps``.
    """
    steps = len(sigmas) - 1
    # 10 * 0.7 is a little over 7 in floating point and must not become 8 steps.
    num_steps = max(math.ceil(steps * denoise - 1e-6), 1)
    return sigmas[steps - num_steps :]
