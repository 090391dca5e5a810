"""Images to conditioning and latents to images: the two uses of the VAE in a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from ..host import Host
from ..image.canvas import Job
from ..memory.plan import Plan, vae_bytes
from ..models import FillModels
from .cache import digest
from .latents import decode_latents, encode_pixels, pack_latents, pack_mask, vae_factor
from .preview import fit_preview

logger = logging.getLogger("onereward.fill")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedJob:
    """An image encoded, CPU, float32. Example: ``encode_job(job, models, host, plan, False)``."""

    conditioning: torch.Tensor
    """Masked-image latents and mask, packed: ``[S, 4C + 4ff]``."""
    source: torch.Tensor | None
    """Latents ``[C, h, w]`` of the unmasked image, if sampling starts from or preserves it."""
    keep: torch.Tensor
    """Packed ``[S, 4]``: 1 where all pixels of a latent are kept, else 0."""
    preview: torch.Tensor
    """Weights of the latent preview."""
    size: tuple[int, int]
    """Height and width in latents."""


def encode_job(
    job: Job, models: FillModels, host: Host, plan: Plan, needs_source: bool
) -> EncodedJob:
    """Encode the masked image (and, if needed, the unmasked one), once per content.

    Source: diffusers, ``FluxFillPipeline.prepare_mask_latents`` (the masked area is grey, i.e. 0).
    """
    pixels, mask = job.model_input()
    masked = _encode(pixels * (1 - mask), models, host, plan)
    source = _encode(pixels, models, host, plan) if needs_source else None
    factor = vae_factor(models.vae_config)
    packed = torch.cat([pack_latents(masked[None]), pack_mask(mask[None], factor)], dim=-1)[0]
    return EncodedJob(
        conditioning=packed,
        source=source,
        keep=pack_latents(1 - torch.nn.functional.max_pool2d(mask[None, None], factor))[0],
        preview=fit_preview(masked, pixels * (1 - mask)),
        size=(masked.shape[1], masked.shape[2]),
    )


def _encode(pixels: torch.Tensor, models: FillModels, host: Host, plan: Plan) -> torch.Tensor:
    key = digest(pixels)
    cached = models.images.get(key)
    if cached is not None:
        return cached[0]
    host.check_cancelled()
    with host.resident(models.vae, activation_bytes=vae_bytes(models, pixels[0].numel())):
        vae = models.vae.module
        _set_tiling(vae, plan.tiled_vae)
        latents = encode_pixels(vae, pixels[None].to(host.device, models.vae.dtype))
    logger.debug("encoded an image of %d x %d pixels", pixels.shape[2], pixels.shape[1])
    return models.images.put(key, (latents[0],))[0]


def decode_latent(
    latents: torch.Tensor, models: FillModels, host: Host, plan: Plan
) -> torch.Tensor:
    """Decode latents ``[C, h, w]`` to pixels ``[3, H, W]`` on the CPU, float32."""
    host.check_cancelled()
    pixels = latents[0].numel() * vae_factor(models.vae_config) ** 2
    with host.resident(models.vae, activation_bytes=vae_bytes(models, pixels)):
        vae = models.vae.module
        _set_tiling(vae, plan.tiled_vae)
        return decode_latents(vae, latents[None].to(host.device))[0].cpu()


def _set_tiling(vae: torch.nn.Module, on: bool) -> None:
    switch = vae.enable_tiling if on else vae.disable_tiling
    switch()  # type: ignore[operator]
