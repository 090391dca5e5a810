"""Masks (float32 `[B, 64, 64]`, 1 = repaint): boxes, blobs, object outlines and extensions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import SIZE, Draw, box_mask, dilate, pixel_grid, spread

_BLOB_SHARE = 0.35
_BLOB_WOBBLE = 0.09
_SIDE_COUNT_WEIGHTS = (0.4, 0.3, 0.15, 0.15)
_OBJECT_MARGIN = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """An area to repaint, with the largest circle that certainly fits into it.

    Example: ``sample_rooms(Draw(generator, 8), 28, 48).mask``  # [8, 64, 64]
    """

    mask: Tensor
    """Float32 `[B, 64, 64]`."""
    x: Tensor
    """Float32 `[B]`, centre of the circle."""
    y: Tensor
    """Float32 `[B]`."""
    radius: Tensor
    """Float32 `[B]`, pixels."""


def _boxes(draw: Draw, low: float, high: float) -> Tensor:
    width = draw.uniform(low, high).round().long()
    height = (width * draw.uniform(0.9, 1.1)).round().long().clamp(max=SIZE - 2)
    x0 = 1 + (draw.uniform(0, 1) * (SIZE - 1 - width)).long()
    y0 = 1 + (draw.uniform(0, 1) * (SIZE - 1 - height)).long()
    return torch.stack([x0, y0, x0 + width, y0 + height], 1)


def _blob(draw: Draw, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    grid_x, grid_y = pixel_grid()
    dx, dy = grid_x - spread(x), grid_y - spread(y)
    angle = torch.atan2(dy, dx)
    wobble = torch.zeros_like(angle)
    for waves in (2, 3, 5):
        phase, size = draw.uniform(0, 6.3), draw.uniform(0, _BLOB_WOBBLE)
        wobble = wobble + spread(size) * torch.sin(waves * angle + spread(phase))
    return (torch.hypot(dx, dy) < spread(radius) * (1 + wobble)).float()


def sample_rooms(draw: Draw, low: float, high: float) -> Room:
    """Draw a box or a blob per scene, `low` to `high` pixels wide."""
    box = _boxes(draw, low, high)
    x0, y0, x1, y1 = box.float().unbind(1)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    half = torch.minimum(x1 - x0, y1 - y0) / 2
    is_blob = draw.chance(_BLOB_SHARE)
    mask = torch.where(spread(is_blob), _blob(draw, x, y, half), box_mask(box))
    return Room(mask=mask, x=x, y=y, radius=torch.where(is_blob, 0.8 * half, half))


def outline_masks(coverage: Tensor) -> Tensor:
    """Return the mask of an object `[B, 64, 64]`, grown by three pixels."""
    return dilate((coverage > 0.02).float(), _OBJECT_MARGIN)


def sample_borders(draw: Draw, low: int, high: int) -> Tensor:
    """Draw how far each image is extended: int64 `[B, 4]` (left, top, right, bottom).

    One to four sides are `low` to `high` - 1 pixels wide, the others 0.
    """
    count = draw.weighted(_SIDE_COUNT_WEIGHTS) + 1
    order = torch.rand(draw.count, 4, generator=draw.generator).argsort(1)
    is_extended = order < count[:, None]
    widths = torch.stack([draw.integer(low, high) for _ in range(4)], 1)
    return widths * is_extended


def border_masks(borders: Tensor) -> Tensor:
    """Return the extension mask of borders `[B, 4]`: 1 outside the kept rectangle."""
    left, top, right, bottom = borders.unbind(1)
    return 1 - box_mask(torch.stack([left, top, SIZE - right, SIZE - bottom], 1))
