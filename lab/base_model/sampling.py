"""Batched sampling for evaluation: every scene has its own prompt, mask and noise.

The engine (`fill`) serves one request at a time; this runs its own parts over hundreds of scenes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...fill.sampling.latents import decode_latents, unpack_latents, vae_factor
from ...fill.sampling.sampler import add_noise, sample
from ...fill.sampling.schedule import make_sigmas, truncate_schedule
from ..world.canvas import SIZE
from ..world.conditions import Conditions
from .models import (
    FillParts,
    encode_packed,
    encode_prompts,
    fill_condition,
    predict_velocity,
    prompt_ids,
)

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
    denoise: float = 1.0
    """Share of the schedule to run, above 0; below 1 it starts from the noised source."""
    seed: int = 0


@torch.no_grad()
def sample_scenes(parts: FillParts, conditions: Conditions, settings: SampleSettings) -> Tensor:
    """Sample every scene; returns float32 `[B, 3, 64, 64]` in 0..1, not composited."""
    generator = torch.Generator().manual_seed(settings.seed)
    rows = torch.arange(len(conditions)).split(_BATCH)
    batches = [conditions.select(part) for part in rows]
    return torch.cat(
        [
            decode_packed(parts, sample_packed(parts, batch, settings, generator))
            for batch in batches
        ]
    )


@torch.no_grad()
def sample_packed(
    parts: FillParts,
    conditions: Conditions,
    settings: SampleSettings,
    generator: torch.Generator,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Sample all scenes at once; returns packed latents `[B, N, 4C]`.

    Args:
        parts: The model.
        conditions: The scenes.
        settings: How to sample; its seed is not used.
        generator: Source of the noise.
        on_step: Called with each step's index and its estimate of the image, packed.
    """
    source = conditions.source * 2 - 1
    packed = fill_condition(parts.vae, source, conditions.mask)
    text = encode_prompts(parts, prompt_ids(parts, conditions.prompts))
    negative = [settings.negative_prompt] * len(conditions)
    other = encode_prompts(parts, prompt_ids(parts, negative))

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(x))
        wanted = predict_velocity(parts, x, level, packed, text)
        if settings.true_cfg == 1.0:
            return wanted
        unwanted = predict_velocity(parts, x, level, packed, other)
        return unwanted + settings.true_cfg * (wanted - unwanted)

    tokens, channels = (_side(parts) // 2) ** 2, 4 * parts.vae.config["latent_channels"]
    sigmas = make_sigmas(build_scheduler().config, settings.steps, tokens)
    sigmas = truncate_schedule(sigmas, settings.denoise)
    noise = torch.randn(len(conditions), tokens, channels, generator=generator)
    start = noise
    if settings.denoise < 1:
        start = add_noise(encode_packed(parts.vae, source), noise, sigmas[0])
    return sample(velocity, start, sigmas, on_step)


@torch.no_grad()
def decode_packed(parts: FillParts, latents: Tensor) -> Tensor:
    """Decode packed latents `[B, N, 4C]` into images float32 `[B, 3, 64, 64]` in 0..1."""
    side = _side(parts)
    pixels = decode_latents(parts.vae, unpack_latents(latents, side, side))
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


def _side(parts: FillParts) -> int:
    return SIZE // vae_factor(parts.vae.config)
