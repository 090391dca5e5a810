"""Images changed against the judge while it learns, so that it learns to see through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH_CELL = 4
_SMOOTH_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Ascent:
    """How far and in what strides images are changed."""

    steps: int
    """Steps of ascent; 0 changes nothing."""
    size: float
    """Largest change of a pixel, 0..1."""
    stride: float | None = None
    """Length of a step, of the largest change; None lets all steps together cross it twice."""


def attack(
    climb: Callable[[Tensor], Tensor],
    images: Tensor,
    where: Tensor,
    ascent: Ascent,
    start: Tensor | None = None,
) -> Tensor:
    """Change images a little so that what `climb` returns rises most.

    Every other one is changed pixel by pixel, the rest smoothly (4x4 pixels) and three times as much,
    as a policy would.

    Args:
        climb: From images to a number.
        images: float32 `[N, ..., 3, H, W]` in 0..1.
        where: `[N, ..., 1, H, W]`, broadcast to the images: 1 = may be changed, 0 = is kept.
        ascent: How far, and in what strides.
        start: The images, changed within these limits already; None starts from themselves.

    Source: A. Madry et al., "Towards deep learning models resistant to adversarial attacks"
    (2018): projected sign ascent.
    """
    is_smooth, limit = _limits(images, ascent.size)
    stride = 2 / max(ascent.steps, 1) if ascent.stride is None else ascent.stride
    change = torch.zeros_like(images) if start is None else start - images
    for _ in range(ascent.steps):
        moved = (images + change).clamp(0, 1).requires_grad_(True)
        (uphill,) = torch.autograd.grad(climb(moved), moved)
        direction = torch.where(is_smooth, _coarse(uphill), uphill).sign()
        change = (change + stride * limit * direction).clamp(-limit, limit) * where
    return (images + change).clamp(0, 1)


def random_start(images: Tensor, where: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Change images at random by at most `size`, where and how `attack` may; as it returns."""
    is_smooth, limit = _limits(images, size)
    noise = 2 * torch.rand(images.shape, generator=generator) - 1
    smooth = (_SMOOTH_CELL * _coarse(noise)).clamp(-1, 1)  # spread as widely as before
    noise = torch.where(is_smooth, smooth, noise)
    return (images + limit * noise * where).clamp(0, 1)


def _limits(images: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Return which images are changed smoothly, and how far; both broadcast to them."""
    shape = (-1, *[1] * (images.ndim - 1))
    is_smooth = (torch.arange(len(images)) % 2 == 1).view(shape)
    return is_smooth, size * torch.where(is_smooth, _SMOOTH_FACTOR, 1.0)


def _coarse(values: Tensor) -> Tensor:
    """Average `[..., 3, H, W]` over cells of 4x4."""
    flat = F.avg_pool2d(values.flatten(0, -4), _SMOOTH_CELL)
    return F.interpolate(flat, scale_factor=_SMOOTH_CELL).view_as(values)
