"""Pictures changed against the judge while it learns, so that it learns to see through them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH_CELL = 4
_SMOOTH_FACTOR = 3.0
_LONGEST_STRIDE = 1.25
"""Of the limit."""


def attack(
    climb: Callable[[Tensor], Tensor],
    pictures: Tensor,
    where: Tensor,
    steps: int,
    size: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Change pictures a little so that what `climb` returns rises most.

    Every other one is changed pixel by pixel, the rest smoothly (4x4 px) and three times as much,
    as a policy would.

    Args:
        climb: From pictures to a number.
        pictures: float32 `[N, ..., 3, H, W]` in 0..1.
        where: `[N, ..., 1, H, W]`, broadcast to the pictures: 1 = may be changed, 0 = is kept.
        steps: Steps of ascent; 0 changes nothing.
        size: Largest change of a pixel, 0..1.
        generator: Draws a start within these limits; None starts from the picture itself.

    Source: A. Madry et al., "Towards deep learning models resistant to adversarial attacks"
    (2018): projected sign ascent; E. Wong et al., "Fast is better than free" (2020): few steps do
    from a random start, of at most 5/4 of the limit.
    """
    shape = (-1, *[1] * (pictures.ndim - 1))
    is_smooth = (torch.arange(len(pictures)) % 2 == 1).view(shape)
    limit = size * torch.where(is_smooth, _SMOOTH_FACTOR, 1.0)
    stride = min(2 / max(steps, 1), _LONGEST_STRIDE) * limit
    change = torch.zeros_like(pictures)
    if generator is not None and steps:
        noise = 2 * torch.rand(pictures.shape, generator=generator) - 1
        smooth = (_SMOOTH_CELL * _coarse(noise)).clamp(-1, 1)  # spread as widely as before
        noise = torch.where(is_smooth, smooth, noise)
        change = limit * noise * where
    for _ in range(steps):
        moved = (pictures + change).clamp(0, 1).requires_grad_(True)
        (uphill,) = torch.autograd.grad(climb(moved), moved)
        direction = torch.where(is_smooth, _coarse(uphill), uphill).sign()
        change = (change + stride * direction).clamp(-limit, limit) * where
    return (pictures + change).clamp(0, 1)


def _coarse(values: Tensor) -> Tensor:
    """Average `[..., 3, H, W]` over cells of 4x4."""
    flat = F.avg_pool2d(values.flatten(0, -4), _SMOOTH_CELL)
    return F.interpolate(flat, scale_factor=_SMOOTH_CELL).view_as(values)
