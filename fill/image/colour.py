"""Colour correction: take back the tone shift of the VAE, as seen in a ring around the mask.

In the ring the source is known and the model has painted it too, so their difference is the shift.
Inside the mask it is carried on smoothly, so it may vary over the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

MAX_GRID = 192
"""The shift is smooth, so it is estimated on a grid of at most this side."""
MAX_SHIFT = 0.25
"""Larger differences are content, not tone."""
TRUST = 0.02
"""Weight of the coarser estimate against the ring's own pixels."""
SIGMAS = (0.5, 0.25, 0.12, 0.06)
"""Widths of the smoothing, coarse to fine, in sides of the grid."""


def correct_colour(
    new: torch.Tensor, old: torch.Tensor, alpha: torch.Tensor, amount: float
) -> torch.Tensor:
    """Return the new image with the tone shift of its surroundings removed.

    Args:
        new: ``[H, W, 3]``, 0..1, painted by the model, kept areas included.
        old: ``[H, W, 3]``, the source.
        alpha: ``[H, W]``; the source is unknown where it is above 0.
        amount: Share of the shift to remove, 0..1.
    """
    ring = _ring(alpha)
    if amount == 0 or not ring.any():
        return new
    height, width = alpha.shape
    scale = min(MAX_GRID / max(height, width), 1.0)
    grid = (max(round(height * scale), 1), max(round(width * scale), 1))
    weight = F.adaptive_avg_pool2d(ring[None, None], grid)
    shift = (old - new).clamp(-MAX_SHIFT, MAX_SHIFT).permute(2, 0, 1)[None]
    weighted = F.adaptive_avg_pool2d(shift * ring, grid)
    field = _spread(weighted, weight)
    field = F.interpolate(field, (height, width), mode="bilinear", align_corners=False)
    return (new + amount * field[0].permute(1, 2, 0)).clamp(0, 1)


def _ring(alpha: torch.Tensor) -> torch.Tensor:
    """Return 1 for kept pixels near the mask: within an eighth of its extent, at least 4 pixels."""
    painted = alpha > 0
    reach = max(4, round(float(painted.sum()) ** 0.5 / 8))
    kernel = 2 * reach + 1
    # Two one-dimensional passes: a square window costs its area.
    near = F.max_pool2d(painted.float()[None, None], (kernel, 1), 1, (reach, 0))
    near = F.max_pool2d(near, (1, kernel), 1, (0, reach))[0, 0]
    return near * (~painted)


def _spread(weighted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Carry weighted values over the whole grid: normalised convolution, coarse to fine."""
    total = weight.sum().clamp_min(1e-6)
    field = weighted.sum((2, 3), keepdim=True) / total
    side = max(weight.shape[-2:])
    for share in SIGMAS:
        sigma = share * side
        near = _blur(weight, sigma)
        trust = TRUST * near.max().clamp_min(1e-6)
        field = (_blur(weighted, sigma) + trust * field) / (near + trust)
    return field


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur ``[1, C, h, w]`` with a Gaussian, zeros outside (the weights are blurred alike)."""
    reach = max(int(2.5 * sigma), 1)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 0.3)) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.conv2d(x, kernel[..., None], padding=(reach, 0), groups=x.shape[1])
    return F.conv2d(x, kernel[:, :, None], padding=(0, reach), groups=x.shape[1])
