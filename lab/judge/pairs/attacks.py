"""Adversarial attacks on the judge's images while it is trained (adversarial training)."""

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
    """Steps and limits of an attack.

    Example: ``Ascent(steps=7, size=8 / 255, stride=0.3)``.
    """

    steps: int
    """Steps of ascent; 0 changes nothing."""
    size: float
    """Largest change of a pixel, 0..1."""
    stride: float | None = None
    """Length of a step in units of `size`; None lets all steps together cross it twice."""


def attack(
    objective: Callable[[Tensor], Tensor],
    images: Tensor,
    allowed: Tensor,
    ascent: Ascent,
    start: Tensor | None = None,
) -> Tensor:
    """Change images a little so that the objective rises most.

    Every second one is changed smoothly (4x4 pixels) and three times as much, as a policy would;
    the others pixel by pixel.

    Args:
        objective: From images to a scalar.
        images: float32 `[N, ..., 3, H, W]` in 0..1.
        allowed: `[N, ..., 1, H, W]`, broadcast to the images: 1 = may be changed, 0 = is kept.
        ascent: Steps and limits.
        start: The images, changed within these limits already; None starts from themselves.

    Source: A. Madry et al., "Towards deep learning models resistant to adversarial attacks"
    (2018): projected sign ascent.
    """
    is_smooth, limit = _limits(images, ascent.size)
    stride = 2 / max(ascent.steps, 1) if ascent.stride is None else ascent.stride
    change = torch.zeros_like(images) if start is None else start - images
    for _ in range(ascent.steps):
        # Step along the sign of the gradient, then back into the limits.
        attacked = (images + change).clamp(0, 1).requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(attacked), attacked)
        direction = torch.where(is_smooth, _coarse(gradient), gradient).sign()
        change = (change + stride * limit * direction).clamp(-limit, limit) * allowed
    return (images + change).clamp(0, 1)


def random_start(
    images: Tensor, allowed: Tensor, size: float, generator: torch.Generator
) -> Tensor:
    """Change images at random within the limits of `attack`; arguments and result as there."""
    is_smooth, limit = _limits(images, size)
    noise = 2 * torch.rand(images.shape, generator=generator) - 1
    smooth = (_SMOOTH_CELL * _coarse(noise)).clamp(-1, 1)  # spread as widely as before
    noise = torch.where(is_smooth, smooth, noise)
    return (images + limit * noise * allowed).clamp(0, 1)


def _limits(images: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Return which images are changed smoothly, and how far; both broadcast to them."""
    shape = (-1, *[1] * (images.ndim - 1))
    is_smooth = (torch.arange(len(images)) % 2 == 1).view(shape)
    return is_smooth, size * torch.where(is_smooth, _SMOOTH_FACTOR, 1.0)


def _coarse(values: Tensor) -> Tensor:
    """Average `[..., 3, H, W]` over cells of 4x4."""
    flat = F.avg_pool2d(values.flatten(0, -4), _SMOOTH_CELL)
    return F.interpolate(flat, scale_factor=_SMOOTH_CELL).view_as(values)
