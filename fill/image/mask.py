"""Masks: float32 ``[H, W]`` on the CPU, 1 = repaint, 0 = keep, everywhere.

The model sees a binary mask; ``alpha`` is its feathered copy and serves compositing only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .geometry import Box

NEAR = 0.02
"""Values this near to 0 or 1 become 0 or 1: brushes and image files leave such traces."""
MIN_PEAK = 0.1
"""A mask whose highest value is below this is empty."""
MAX_HOLE = 0.1
"""Largest hole that is closed, in painted areas."""
SPECK_PIXELS, SPECK_SHARE = 9, 2e-5
"""Largest speck, in pixels and as a share of the whole mask; the larger of the two counts."""
SPECK_RATIO = 50
"""A speck is this many times smaller than the largest area."""
MIN_REACH = 8
"""Soft values count at least this far from the painted area, in pixels."""
MAX_REACH = 0.25
"""They count at most this far, in longest sides of the mask."""
HAZE_QUANTILE, HAZE_SAMPLES = 0.99, 1_000_000
"""Share of the values away from the painted area that are haze, and how many are looked at."""
COARSE_SIDE = 512
"""What needs no exact distance is measured on a mask of at most this side."""
TILE = 1024
"""Distances are computed in squares of this side: a large image takes gigabytes at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CleanMask:
    """What a user's mask means. Example: ``clean_mask(mask).solid``."""

    solid: torch.Tensor
    """``[H, W]``, binary: the painted area."""
    soft: torch.Tensor
    """``[H, W]``, 0..1: a soft border of the painted area that is to survive; 0 elsewhere."""
    notes: tuple[str, ...]
    """What was left out or changed, one sentence each."""


def clean_mask(mask: torch.Tensor, canvas: tuple[int, int] | None = None) -> CleanMask:
    """Return the painted area of one mask and its soft border.

    Values from 0.5 are painted. Lower ones count only where they join a painted area and rise above
    the haze of the whole mask; specks beside a much larger area do not count. A mask that was
    painted faintly counts as if its highest value were 1.

    Args:
        mask: ``[H, W]``, 0..1, not written to; the window of the canvas that is not 0.
        canvas: Height and width of the canvas; None: those of the mask.
    """
    canvas = canvas or (mask.shape[0], mask.shape[1])
    mask = mask.detach().to("cpu", torch.float32)
    notes = []
    peak = float(mask.max())
    if peak < MIN_PEAK:
        return CleanMask(solid=torch.zeros_like(mask), soft=torch.zeros_like(mask), notes=())
    if peak < 0.5:
        mask = mask / peak
        notes.append(f"the mask's highest value is {peak:.2f}; it counts as fully painted")
    mask = without_traces(mask)
    solid, num_specks = _without_specks(mask >= 0.5, canvas)
    if num_specks:
        notes.append(f"specks of the mask beside a much larger area are left out: {num_specks}")
    soft = torch.where((mask < 1) & (solid | (mask < 0.5)), mask, 0.0)
    if bool((soft > 0).any()):
        soft, is_changed = _joined(soft, solid, canvas)
        if is_changed:
            notes.append("faint values of the mask away from the painted area are left out")
    return CleanMask(solid=solid.float(), soft=soft, notes=tuple(notes))


def without_traces(mask: torch.Tensor) -> torch.Tensor:
    """Return a fresh mask in 0..1 whose values near 0 or 1 are 0 or 1."""
    mask = mask.clamp(0, 1)
    mask[mask < NEAR] = 0.0
    mask[mask > 1 - NEAR] = 1.0
    return mask


def _without_specks(solid: torch.Tensor, canvas: tuple[int, int]) -> tuple[torch.Tensor, int]:
    """Return the painted area without specks, and how many there were."""
    from scipy import ndimage

    labelled: Any = ndimage.label(solid.numpy(), np.ones((3, 3)))
    labels, count = labelled
    if count < 2:
        return solid, 0
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # what is not painted
    largest_speck = max(SPECK_PIXELS, SPECK_SHARE * canvas[0] * canvas[1])
    limit = min(largest_speck, float(sizes.max()) / SPECK_RATIO)
    is_speck = sizes <= limit
    is_speck[0] = False
    return torch.from_numpy((labels > 0) & ~is_speck[labels]), int(is_speck.sum())


def _joined(
    soft: torch.Tensor, solid: torch.Tensor, canvas: tuple[int, int]
) -> tuple[torch.Tensor, bool]:
    """Return the soft values that are a border of the painted area, and whether others were there.

    A border reaches at most as far as the painted area is wide. What lies beyond shows how much
    haze there is everywhere; the haze is taken off the border, too, which so still ends at 0.
    """
    from scipy import ndimage

    reach = max(float(MIN_REACH), float(solid.sum()) ** 0.5)
    near = _coarse_near(solid, min(reach, MAX_REACH * max(canvas)))
    haze = _haze(soft[~near], num_zeros=canvas[0] * canvas[1] - soft.numel())
    border = ((soft - haze) / (1 - haze)).clamp_min(0) if haze > 0 else soft
    # Only what a way over soft values connects with the painted area is its border.
    labelled: Any = ndimage.label(((border > 0) & near | solid).numpy(), np.ones((3, 3)))
    labels, count = labelled
    has_solid = np.zeros(count + 1, dtype=bool)
    has_solid[np.unique(labels[solid.numpy()])] = True
    joined = torch.where(torch.from_numpy(has_solid[labels]), border, 0.0)
    return joined, bool(((soft > 0) & (joined == 0) & ~solid).any())


def _haze(values: torch.Tensor, num_zeros: int) -> float:
    """Return the value that all but a few of the values and that many zeros stay below."""
    num = values.numel()
    # As a quantile of the values alone, since the zeros come first in the order.
    quantile = 1 - (1 - HAZE_QUANTILE) * (num + num_zeros) / num if num else 0.0
    if quantile <= 0:
        return 0.0
    return float(np.quantile(values[:: 1 + num // HAZE_SAMPLES].numpy(), quantile))


def _coarse_near(solid: torch.Tensor, reach: float) -> torch.Tensor:
    """Return which pixels are within about ``reach`` pixels of the painted area, ``[H, W]``."""
    from scipy import ndimage

    height, width = solid.shape
    cell = max(1, -(-max(height, width) // COARSE_SIDE))
    pad = (0, -width % cell, 0, -height % cell)
    coarse = F.max_pool2d(F.pad(solid.float()[None], pad), cell)[0] > 0
    distance: Any = ndimage.distance_transform_edt(~coarse.numpy())
    near = torch.from_numpy(distance * cell <= reach)
    near = near.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    return near[:height, :width]


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
    return (_distance(solid == 0, pixels) <= pixels).to(torch.float32)


def feather(solid: torch.Tensor, pixels: int) -> torch.Tensor:
    """Return alpha ``[H, W]`` in 0..1: 0 outside, 1 from a depth of ``pixels + 1``.

    The border of the image is no border of the mask: a mask that runs off it stays 1 there.
    """
    if pixels <= 0 or bool((solid > 0).all()):
        return solid.clone()
    t = (_distance(solid > 0, pixels + 1) / (pixels + 1)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def bounding_box(mask: torch.Tensor) -> Box | None:
    """Return the box around all values above 0 of ``[H, W]``; None if there are none."""
    # NumPy's `any` over an axis takes no further memory, torch's does; so does a bool compared.
    painted = (mask if mask.dtype is torch.bool else mask > 0).numpy()
    rows, cols = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
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


def _distance(inside: torch.Tensor, limit: int) -> torch.Tensor:
    """Return for every True pixel the distance in pixels to the nearest False one; 0 elsewhere.

    Exact up to ``limit``; what is farther away gets ``limit + 1``.
    """
    from scipy import ndimage

    inputs = np.ascontiguousarray(inside.numpy())
    distance = np.zeros(inputs.shape, dtype=np.float32)
    for rows, cols in _tiles(*inputs.shape):
        if not inputs[rows, cols].any():
            continue
        top, left = max(rows.start - limit, 0), max(cols.start - limit, 0)
        window = inputs[top : rows.stop + limit, left : cols.stop + limit]
        if window.all():
            distance[rows, cols] = limit + 1
            continue
        exact: Any = ndimage.distance_transform_edt(window)
        height, width = rows.stop - rows.start, cols.stop - cols.start
        inner = exact[rows.start - top :, cols.start - left :][:height, :width]
        distance[rows, cols] = np.minimum(inner, limit + 1)
    return torch.from_numpy(distance)


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield (
                slice(top, min(top + TILE, height)),
                slice(left, min(left + TILE, width)),
            )
