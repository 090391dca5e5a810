"""Between pixels, latents and packed latents, for any VAE downscale factor.

Words: pixels are ``[B, 3, H, W]`` in -1..1; latents ``[B, C, H/f, W/f]``, scaled and shifted;
packed latents ``[B, (H/2f)(W/2f), 4C]`` with channels in the order (channel, row, column).
Source: diffusers, ``FluxFillPipeline._pack_latents`` and ``prepare_mask_latents``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import nn


def vae_factor(vae_config: Mapping[str, Any]) -> int:
    """Return how many pixels one latent covers per side (8 for FLUX)."""
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def pack_latents(latents: torch.Tensor) -> torch.Tensor:
    """``[B, C, h, w]`` to ``[B, (h/2)(w/2), 4C]``; h and w even."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack_latents(packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Undo :func:`pack_latents`; ``height`` and ``width`` count latents, not pixels."""
    return rearrange(
        packed, "b (h w) (c p q) -> b c (h p) (w q)", h=height // 2, w=width // 2, p=2, q=2
    )


def pack_mask(mask: torch.Tensor, factor: int) -> torch.Tensor:
    """Unshuffle a pixel mask into channels and pack it, as FLUX Fill was trained.

    Args:
        mask: ``[B, H, W]``, binary, 1 = repaint; H and W multiples of ``2 * factor``.
        factor: The VAE's downscale factor f.

    Returns:
        ``[B, (H/2f)(W/2f), 4 * f * f]``.
    """
    return pack_latents(rearrange(mask, "b (h p) (w q) -> b (p q) h w", p=factor, q=factor))


def position_ids(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the (0, row, column) of every packed latent, ``[(h/2)(w/2), 3]``, float32."""
    ids = torch.zeros(height // 2, width // 2, 3, device=device)
    ids[..., 1] = torch.arange(height // 2, device=device)[:, None]
    ids[..., 2] = torch.arange(width // 2, device=device)[None]
    return ids.reshape(-1, 3)


def encode_pixels(vae: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Encode pixels to latents, float32; the mode of the posterior, so that a run is reproducible.

    Args:
        vae: diffusers' ``AutoencoderKL``.
        pixels: ``[B, 3, H, W]``, -1..1, on the VAE's device and in its data type.
    """
    config: Any = vae.config
    latents = vae.encode(pixels).latent_dist.mode().float()  # type: ignore[operator]
    return (latents - (config.shift_factor or 0.0)) * config.scaling_factor


def decode_latents(vae: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents to pixels ``[B, 3, H, W]``, float32, about -1..1; differentiable."""
    config: Any = vae.config
    raw = latents / config.scaling_factor + (config.shift_factor or 0.0)
    dtype = next(vae.parameters()).dtype
    return vae.decode(raw.to(dtype), return_dict=False)[0].float()  # type: ignore[operator]
