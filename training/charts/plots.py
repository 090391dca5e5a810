"""Line plots as images, for nodes and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 40
NUM_TICKS = 5
FONT_SIZE = 13
INK, GRID = (20, 20, 20), (225, 225, 225)
COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189))
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a plot."""

    name: str
    points: Sequence[Point]
    """x and y."""
    labels: Sequence[str] = ()
    """A text per point, drawn beside a dot; empty: a line without dots."""


def plot(
    title: str,
    series: Sequence[Series],
    x: tuple[float, float],
    y: tuple[float, float],
    x_label: str = "",
) -> Tensor:
    """Draw series between limits; return ``[H, W, 3]``, float32, 0..1."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_SIZE)

    def place(point: Point) -> Point:
        across = (point[0] - x[0]) / ((x[1] - x[0]) or 1)
        up = (min(max(point[1], y[0]), y[1]) - y[0]) / ((y[1] - y[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    for number in range(NUM_TICKS):
        share = number / (NUM_TICKS - 1)
        at = (x[0] + share * (x[1] - x[0]), y[0] + share * (y[1] - y[0]))
        left, bottom = place(at)
        draw.line([(LEFT, bottom), (WIDTH - RIGHT, bottom)], fill=GRID)
        draw.text((LEFT - 6, bottom), f"{at[1]:.3g}", fill=INK, font=font, anchor="rm")
        draw.text((left, HEIGHT - BOTTOM + 5), f"{at[0]:.4g}", fill=INK, font=font, anchor="mt")
    draw.text((WIDTH / 2, HEIGHT - 4), x_label, fill=INK, font=font, anchor="mb")
    draw.text((LEFT, 6), title, fill=INK, font=font)
    right = WIDTH - RIGHT
    for one, colour in zip(reversed(series), _colours(len(series)), strict=True):
        draw.text((right, 6), one.name, fill=colour, font=font, anchor="ra")
        right -= round(font.getlength(one.name)) + 12
        _draw(draw, [place(point) for point in one.points], one.labels, colour)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)


def _colours(num: int) -> list[tuple[int, int, int]]:
    return [COLOURS[i % len(COLOURS)] for i in reversed(range(num))]


def _draw(
    draw: ImageDraw.ImageDraw,
    points: Sequence[Point],
    labels: Sequence[str],
    colour: tuple[int, int, int],
) -> None:
    if len(points) > 1:
        draw.line(list(points), fill=colour, width=2)
    if labels or len(points) == 1:
        for left, top in points:
            draw.ellipse((left - 3, top - 3, left + 3, top + 3), fill=colour)
    font = ImageFont.load_default(FONT_SIZE - 2)
    for (left, top), label in zip(points, labels, strict=False):
        fits = left + 5 + font.getlength(label) < WIDTH
        draw.text(
            (left + (5 if fits else -5), top - 4), label, colour, font, "lb" if fits else "rb"
        )


def stack(images: Sequence[Tensor]) -> Tensor:
    """Put images ``[H, W, 3]`` under each other on white; return ``[1, H, W, 3]``."""
    width = max(image.shape[1] for image in images)
    sheet = torch.ones(sum(image.shape[0] for image in images), width, 3)
    top = 0
    for image in images:
        height, wide = image.shape[:2]
        sheet[top : top + height, :wide] = image
        top += height
    return sheet[None]
