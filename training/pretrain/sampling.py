"""Batched sampling for evaluation: every scene has its own prompt, mask and noise.

The engine (`fill`) serves one request at a time; this runs its own parts over hundreds of scenes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...fill.latents import decode_latents, unpack_latents, vae_factor
from ...fill.sampler import sample
from ...fill.schedule import make_sigmas
from ...world.canvas import SIZE
from ...world.conditions import Conditions
from .models import FillParts, encode_prompts, fill_condition, predict_velocity, prompt_ids

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

_BATCH = 50


def build_scheduler() -> "FlowMatchEulerDiscreteScheduler":
    """Return FLUX.1-Fill's scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """How to sample."""

    steps: int = 20
    true_cfg: float = 1.0
    """Scale of classifier-free guidance; 1 = off."""
    negative_prompt: str = ""
    seed: int = 0


@torch.no_grad()
def sample_scenes(parts: FillParts, conditions: Conditions, settings: SampleSettings) -> Tensor:
    """Sample every scene; returns float32 `[B, 3, 64, 64]` in 0..1, not composited."""
    generator = torch.Generator().manual_seed(settings.seed)
    rows = torch.arange(len(conditions)).split(_BATCH)
    return torch.cat(
        [_sample_batch(parts, conditions.select(part), settings, generator) for part in rows]
    )


def _sample_batch(
    parts: FillParts, conditions: Conditions, settings: SampleSettings, generator: torch.Generator
) -> Tensor:
    packed = fill_condition(parts.vae, conditions.source * 2 - 1, conditions.mask)
    text = encode_prompts(parts, prompt_ids(parts, conditions.prompts))
    negative = [settings.negative_prompt] * len(conditions)
    other = encode_prompts(parts, prompt_ids(parts, negative))
    side = SIZE // vae_factor(parts.vae.config)
    tokens, channels = (side // 2) ** 2, 4 * parts.vae.config["latent_channels"]
    noise = torch.randn(len(conditions), tokens, channels, generator=generator)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(x))
        wanted = predict_velocity(parts, x, level, packed, text)
        if settings.true_cfg == 1.0:
            return wanted
        unwanted = predict_velocity(parts, x, level, packed, other)
        return unwanted + settings.true_cfg * (wanted - unwanted)

    sigmas = make_sigmas(build_scheduler().config, settings.steps, tokens)
    latents = unpack_latents(sample(velocity, noise, sigmas), side, side)
    return (decode_latents(parts.vae, latents) / 2 + 0.5).clamp(0, 1)
