"""The six shapes of the world as signed distances, and the eight colours they come in."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .canvas import pixel_grid, soft_edge, spread

COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.08, 0.62, 0.15),
    "blue": (0.10, 0.20, 0.90),
    "yellow": (0.98, 0.88, 0.10),
    "purple": (0.55, 0.12, 0.70),
    "cyan": (0.10, 0.80, 0.85),
    "white": (0.98, 0.98, 0.98),
    "black": (0.04, 0.04, 0.04),
}
COLOUR_NAMES = tuple(COLOURS)
COLOUR_VALUES = torch.tensor(list(COLOURS.values()))


def _circle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.hypot(x, y) - r


def _square(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.88 * r


def _triangle(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    down = y - 0.25 * r
    return torch.maximum(down, 0.866 * x.abs() - 0.5 * down) - 0.6 * r


def _ring(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.74 * r).abs() - 0.26 * r


def _cross(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    ax, ay, arm = x.abs(), y.abs(), 0.3 * r
    return torch.minimum(torch.maximum(ax - r, ay - arm), torch.maximum(ay - r, ax - arm))


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    folded = (angle - (angle / sector).round() * sector).abs()
    radius = torch.hypot(x, y)
    along, across = radius * folded.cos(), radius * folded.sin()
    outer, inner = 1.0, 0.43
    tip_x, notch_x, notch_y = outer, inner * math.cos(sector / 2), inner * math.sin(sector / 2)
    length = math.hypot(notch_y, tip_x - notch_x)
    normal_x, normal_y = notch_y / length, (tip_x - notch_x) / length
    return (along - tip_x * r) * normal_x + across * normal_y


_DISTANCE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}
SHAPE_NAMES = tuple(_DISTANCE)


def shape_distance(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Return how far every pixel is from the outline of one shape per scene.

    Args:
        shape: int64 `[B]`, index into `SHAPE_NAMES`.
        x: float `[B]`, centre in pixels.
        y: float `[B]`, centre in pixels.
        radius: float `[B]`, about half the shape's extent in pixels.

    Returns:
        Float32 `[B, 64, 64]` in pixels, negative inside; at corners, less than the true distance.
    """
    grid_x, grid_y = pixel_grid()
    distances = torch.empty(len(shape), *grid_x.shape)  # [B, 64, 64]
    for kind, distance in enumerate(_DISTANCE.values()):
        rows = (shape == kind).nonzero()[:, 0]
        if len(rows):
            dx, dy = grid_x - spread(x[rows]), grid_y - spread(y[rows])
            distances[rows] = distance(dx, dy, spread(radius[rows]))
    return distances


def shape_coverage(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Draw one shape per scene: float32 `[B, 64, 64]` in 0..1; arguments of `shape_distance`."""
    return soft_edge(shape_distance(shape, x, y, radius))
