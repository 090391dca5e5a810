"""Small images of the state of a run, without the VAE.

Latents are close to linear in colour; the linear map is fitted to the source and its own latents,
so it needs no table and works with any VAE.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

RIDGE = 1e-3
MAX_SIDE = 512


def fit_preview(latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Fit colours to latents by ridge regression.

    Args:
        latents: ``[C, h, w]`` of an image.
        pixels: ``[3, H, W]``, -1..1, the same image.

    Returns:
        ``[C + 1, 3]``; the last row is the offset.
    """
    channels = latents.shape[0]
    colours = F.adaptive_avg_pool2d(pixels, (latents.shape[1], latents.shape[2]))
    a = torch.cat([latents.reshape(channels, -1).T, torch.ones(latents[0].numel(), 1)], dim=1)
    gram = a.T @ a + RIDGE * a.shape[0] * torch.eye(channels + 1)
    return torch.linalg.solve(gram, a.T @ colours.reshape(3, -1).T)


def preview_image(latents: torch.Tensor, weights: torch.Tensor, factor: int) -> torch.Tensor:
    """Return ``[H, W, 3]``, 0..1, from latents ``[C, h, w]``, at most 512 pixels long."""
    channels, height, width = latents.shape
    flat = latents.reshape(channels, -1).T.float().cpu()
    colours = flat @ weights[:-1] + weights[-1]
    image = colours.T.reshape(1, 3, height, width)
    scale = min(factor, MAX_SIDE / max(height, width))
    image = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
    return (image[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)
