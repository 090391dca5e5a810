"""Measurements shared by all tasks: how an image differs from the image that explains it.

The *explained image* is what a faultless result with the same content would look like; the
*residual* is the image minus that. Everything is measured under the mask alone, and away from
the edges of drawn objects (the *plain* area), where a shift of half a pixel is no artifact.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import dilate, erode

_WINDOW = 9
_MIN_FILLED = 0.25
_EDGE_BAND = 2
_NOISE_BAND = 1  # within letters and between their strokes hardly anything lies farther from edges
_STRONG_EDGE = 0.08
_MIN_EDGES = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residual:
    """How a batch of images differs from what explains them; float32 `[B]` each, 0 is best.

    Example: ``measure_residual(image, explained, mask, coverage).seam``  # [B]
    """

    tone: Tensor
    """Largest colour offset of any 9x9 neighbourhood: tints, leftovers."""
    worst: Tensor
    """Largest RMS error of any 9x9 neighbourhood: objects, wrong texture, coarse lattices."""
    noise: Tensor
    """RMS of what a 3x3 blur removes from the residual: noise, fine lattices."""
    seam: Tensor
    """Mean absolute error of the pixels just inside the mask's border."""
    blur: Tensor
    """Share of the edges' RMS gradient that is missing, 0..1; 0 where there are no edges."""


def root(values: Tensor) -> Tensor:
    """Return the square root of values of at least 0, with a finite slope everywhere."""
    return values.clamp(min=1e-20).sqrt() * (values > 0)


def edge_band(coverage: Tensor, radius: int = _EDGE_BAND) -> Tensor:
    """Mark the neighbourhood of an object's edges: float32 `[B, H, W]`."""
    return dilate((coverage > 0.05).float(), radius) - erode((coverage > 0.95).float(), radius)


def _box_blur(values: Tensor) -> Tensor:
    """Average over 9x9 windows, rows first: a fifth of the work of one 9x9 pooling."""
    pad = _WINDOW // 2
    rows = F.avg_pool2d(values, (1, _WINDOW), 1, (0, pad))
    return F.avg_pool2d(rows, (_WINDOW, 1), 1, (pad, 0))


def _local_mean(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted 9x9 means of `[B, C, H, W]`, and where enough weight stands behind them."""
    filled = _box_blur(weight[:, None])
    means = _box_blur(values * weight[:, None]) / filled.clamp(min=1e-6)
    densest = filled.amax((1, 2, 3), keepdim=True)
    return means, (filled >= _MIN_FILLED * densest) & (filled > 0)


def _mean_over(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def gradients(image: Tensor) -> Tensor:
    """Return horizontal and vertical central differences, `[B, 2C, H, W]`."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    return torch.cat([across, down], 1)


def _missing_edges(image: Tensor, explained: Tensor, mask: Tensor) -> Tensor:
    ideal = gradients(explained).square().mean(1)  # [B, H, W]
    edges = (ideal.sqrt() > _STRONG_EDGE).float() * mask
    near = dilate(edges, 1) * mask
    actual = gradients(image).square().mean(1)
    share = (actual * near).sum((1, 2)) / (ideal * near).sum((1, 2)).clamp(min=1e-6)  # [B]
    has_edges = edges.sum((1, 2)) >= _MIN_EDGES
    return torch.where(has_edges, 1 - root(share).clamp(max=1), torch.zeros_like(share))


def measure_residual(image: Tensor, explained: Tensor, mask: Tensor, coverage: Tensor) -> Residual:
    """Compare an image with what explains it.

    Args:
        image: float32 `[B, 3, H, W]` in 0..1.
        explained: the same shape.
        mask: float32 `[B, H, W]`, 1 = repainted.
        coverage: float32 `[B, H, W]`, drawn objects of the explained image.

    Returns:
        The measurements, one number per image.
    """
    residual = image - explained
    plain = mask * (1 - edge_band(coverage))
    means, enough = _local_mean(residual, plain)
    powers, _ = _local_mean(residual.square().mean(1, keepdim=True), plain)
    fine = residual - F.avg_pool2d(residual, 3, 1, 1, count_include_pad=False)
    border = plain * (1 - erode(mask, 1))
    return Residual(
        tone=(root(means.square().mean(1, keepdim=True)) * enough).amax((1, 2, 3)),
        worst=(root(powers) * enough).amax((1, 2, 3)),
        noise=root(
            _mean_over(fine.square().mean(1), mask * (1 - edge_band(coverage, _NOISE_BAND)))
        ),
        seam=_mean_over(residual.abs().mean(1), border),
        blur=_missing_edges(image, explained, mask),
    )
