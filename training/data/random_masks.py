"""Random masks for images that have none: boxes, ellipses, brush strokes and borders."""

from __future__ import annotations

import hashlib

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...fill.task import Task

_BOX, _ELLIPSE, _STROKE = range(3)


def keyed_generator(key: str) -> torch.Generator:
    """Return a source of randomness that follows from a text alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def random_mask(task: Task, size: tuple[int, int], generator: torch.Generator) -> Image.Image:
    """Draw a mask that the task makes sense with; white = repaint.

    Args:
        task: extend takes strips along one to four borders, text a flat box, fill and remove a box,
            an ellipse or a brush stroke.
        size: Width and height in pixels.
        generator: Source of all choices.
    """
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    if task is Task.EXTEND:
        mask.paste(255, (0, 0, *size))
        draw.rectangle(_inner(size, generator), fill=0)
    elif task is Task.TEXT:
        draw.rectangle(_box(size, (0.4, 0.8), (0.15, 0.3), generator), fill=255)
    else:
        kind = int(torch.randint(3, (), generator=generator))
        box = _box(size, (0.2, 0.5), (0.2, 0.5), generator)
        if kind == _BOX:
            draw.rectangle(box, fill=255)
        elif kind == _ELLIPSE:
            draw.ellipse(box, fill=255)
        else:
            _stroke(draw, box, generator)
    return mask


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _box(
    size: tuple[int, int],
    widths: tuple[float, float],
    heights: tuple[float, float],
    generator: torch.Generator,
) -> tuple[int, int, int, int]:
    """Return a box, ends included; sides are shares of the image's."""
    spans = []
    for side, (low, high) in zip(size, (widths, heights), strict=True):
        length = max(int(side * float(_uniform(low, high, 1, generator))), 4)
        start = int(torch.randint(side - length + 1, (), generator=generator))
        spans.append((start, start + length - 1))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def _inner(size: tuple[int, int], generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return what an extension keeps, ends included; at least one side is new."""
    shares = _uniform(0.1, 0.3, 4, generator)
    is_new = torch.rand(4, generator=generator) < 0.5
    is_new[int(torch.randint(4, (), generator=generator))] = True
    left, top, right, bottom = (shares * is_new).tolist()
    width, height = size
    return (
        int(width * left),
        int(height * top),
        width - 1 - int(width * right),
        height - 1 - int(height * bottom),
    )


def _stroke(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], generator: torch.Generator
) -> None:
    left, top, right, bottom = box
    x = _uniform(left, right, 5, generator).tolist()
    y = _uniform(top, bottom, 5, generator).tolist()
    width = max(min(right - left, bottom - top) // 3, 4)
    points = list(zip(x, y, strict=True))
    draw.line(points, fill=255, width=width, joint="curve")
    for cx, cy in points:
        draw.ellipse((cx - width / 2, cy - width / 2, cx + width / 2, cy + width / 2), fill=255)
