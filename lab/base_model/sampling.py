"""Batched sampling for evaluation: every scene has its own prompt, mask and noise.

The engine (`fill`) serves one request at a time; this samples hundreds of scenes in batches.
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
    FillComponents,
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
    """How to sample.

    Example: ``SampleSettings(steps=8, true_cfg=2.0)``.
    """

    steps: int = 20
    true_cfg: float = 1.0
    """Scale of classifier-free guidance; 1 = off."""
    negative_prompt: str = ""
    denoise: float = 1.0
    """Share of the schedule to run, above 0; below 1 it starts from the noised source."""
    seed: int = 0


@torch.no_grad()
def sample_scenes(
    components: FillComponents, conditions: Conditions, settings: SampleSettings
) -> Tensor:
    """Sample every scene; returns float32 `[B, 3, 64, 64]` in 0..1, not composited."""
    generator = torch.Generator().manual_seed(settings.seed)
    images = []
    for rows in torch.arange(len(conditions)).split(_BATCH):
        latents = sample_packed(components, conditions.select(rows), settings, generator)
        images.append(decode_packed(components, latents))
    return torch.cat(images)


@torch.no_grad()
def sample_packed(
    components: FillComponents,
    conditions: Conditions,
    settings: SampleSettings,
    generator: torch.Generator,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Sample all scenes at once; returns packed latents `[B, N, 4C]`.

    Args:
        components: The model.
        conditions: The scenes.
        settings: How to sample; its seed is not used.
        generator: Source of the noise.
        on_step: Called with each step's index and its estimate of the image, packed.
    """
    # Condition and text, positive and negative.
    source = conditions.source * 2 - 1
    packed = fill_condition(components.vae, source, conditions.mask)  # [B, N, 4C + 4f²]
    text = encode_prompts(components, prompt_ids(components, conditions.prompts))
    negative_prompts = [settings.negative_prompt] * len(conditions)
    negative = encode_prompts(components, prompt_ids(components, negative_prompts))

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(x))
        positive = predict_velocity(components, x, level, packed, text)
        if settings.true_cfg == 1.0:
            return positive
        unguided = predict_velocity(components, x, level, packed, negative)
        return unguided + settings.true_cfg * (positive - unguided)

    # Schedule and start: noise, or below denoise 1 the noised source.
    tokens, channels = (_side(components) // 2) ** 2, 4 * components.vae.config["latent_channels"]
    sigmas = make_sigmas(build_scheduler().config, settings.steps, tokens)
    sigmas = truncate_schedule(sigmas, settings.denoise)
    noise = torch.randn(len(conditions), tokens, channels, generator=generator)  # [B, N, 4C]
    start = noise
    if settings.denoise < 1:
        start = add_noise(encode_packed(components.vae, source), noise, sigmas[0])
    return sample(velocity, start, sigmas, on_step)


@torch.no_grad()
def decode_packed(components: FillComponents, latents: Tensor) -> Tensor:
    """Decode packed latents `[B, N, 4C]` into images float32 `[B, 3, 64, 64]` in 0..1."""
    side = _side(components)
    pixels = decode_latents(components.vae, unpack_latents(latents, side, side))
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


def _side(components: FillComponents) -> int:
    """Return height and width of the latents."""
    return SIZE // vae_factor(components.vae.config)
