"""Masks: float32 ``[B, H, W]`` on the CPU, 1 = repaint, 0 = keep, everywhere.

The model sees a binary mask; ``alpha`` is its feathered copy and serves compositing only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .geometry import Box

NEAR = 0.02
"""Values this near to 0 or 1 become 0 or 1: brushes and image files leave such traces."""
MAX_HOLE = 0.1
"""Largest hole that is closed, in painted areas."""


def normalise_mask(mask: torch.Tensor, num_images: int) -> torch.Tensor:
    """Return a fresh, cleaned float32 mask ``[num_images, H, W]`` in 0..1 on the CPU.

    Args:
        mask: ``[H, W]``, ``[1, H, W]`` or ``[num_images, H, W]``.
        num_images: Size of the batch.
    """
    mask = mask.detach().to("cpu", torch.float32).clamp(0, 1)
    mask = mask.reshape(-1, *mask.shape[-2:]).expand(num_images, -1, -1).clone()
    mask[mask < NEAR] = 0.0
    mask[mask > 1 - NEAR] = 1.0
    return mask


def fill_holes(solid: torch.Tensor) -> torch.Tensor:
    """Close the holes of one binary mask ``[H, W]`` that a brush left.

    A hole is an area of zeros without a way to the border. One larger than a tenth of the painted
    area stays: whoever paints a frame wants to keep what is inside it.
    """
    from scipy import ndimage

    painted = solid.numpy() > 0
    closed: Any = ndimage.binary_fill_holes(painted)
    labelled: Any = ndimage.label(closed & ~painted)
    labels, count = labelled
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    is_small = sizes <= MAX_HOLE * painted.sum()
    is_small[0] = False
    return torch.from_numpy(painted | is_small[labels]).to(torch.float32)


def grow(solid: torch.Tensor, pixels: int) -> torch.Tensor:
    """Grow one binary mask ``[H, W]`` by ``pixels`` pixels in every direction, as a disc does."""
    if pixels <= 0 or not solid.any():
        return solid
    return (_distance(solid == 0) <= pixels).to(torch.float32)


def feather(solid: torch.Tensor, pixels: int) -> torch.Tensor:
    """Return alpha ``[H, W]`` in 0..1: 0 outside, 1 from a depth of ``pixels + 1``.

    The border of the image is no border of the mask: a mask that runs off it stays 1 there.
    """
    if pixels <= 0 or bool((solid > 0).all()):
        return solid.clone()
    t = (_distance(solid > 0) / (pixels + 1)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def bounding_box(mask: torch.Tensor) -> Box | None:
    """Return the box around all values above 0 of ``[H, W]``; None if there are none."""
    rows = (mask > 0).any(dim=1).nonzero()
    cols = (mask > 0).any(dim=0).nonzero()
    if len(rows) == 0:
        return None
    return Box(int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)


def composite(new: torch.Tensor, old: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Paste ``new`` over ``old``; where alpha is 0 the old pixels stay bit for bit.

    Args:
        new: ``[H, W, 3]``.
        old: ``[H, W, 3]``.
        alpha: ``[H, W]``, 0..1.
    """
    a = alpha[..., None]
    return torch.where(a > 0, a * new + (1 - a) * old, old)


def _distance(inside: torch.Tensor) -> torch.Tensor:
    """Return for every True pixel the distance in pixels to the nearest False one; 0 elsewhere."""
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(np.ascontiguousarray(inside.numpy()))
    return torch.from_numpy(np.asarray(distance)).to(torch.float32)
