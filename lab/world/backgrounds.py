"""Backgrounds: flat, gradient, stripes, checker, horizon, and the test split's slope and plaid."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .canvas import SIZE, Draw, pixel_grid, spread
from .splits import SplitStyle

_NOISE = 0.008
_PATTERN_CONTRAST = 0.45
_SHADING = 0.12


def _ramp(draw: Draw) -> Tensor:
    angle = draw.uniform(0, 2 * math.pi)
    x, y = pixel_grid()
    half = SIZE / 2
    along = (x - half) * spread(angle.cos()) + (y - half) * spread(angle.sin())
    return along / SIZE + 0.5


def _bands(position: Tensor, period: Tensor) -> Tensor:
    """Alternate 0 and 1 along `position`, each band `period` pixels wide, edges anti-aliased."""
    saw = ((position / period) % 2 - 1).abs() * period
    return (saw - period / 2 + 0.5).clamp(0, 1)


def _axis_bands(draw: Draw) -> tuple[Tensor, Tensor]:
    x, y = pixel_grid()
    period = spread(draw.integer(6, 12).float())
    phase = spread(draw.uniform(0, 16))
    return _bands(x + phase, period), _bands(y + phase, period)


def _flat(draw: Draw) -> Tensor:
    return torch.zeros(draw.count, SIZE, SIZE)


def _gradient(draw: Draw) -> Tensor:
    return _ramp(draw).clamp(0, 1)


def _stripes(draw: Draw) -> Tensor:
    x, y = pixel_grid()
    direction = draw.integer(0, 3)
    along_x = torch.tensor([1.0, 0.0, math.sqrt(0.5)])[direction]
    along_y = torch.tensor([0.0, 1.0, math.sqrt(0.5)])[direction]
    position = x * spread(along_x) + y * spread(along_y) + spread(draw.uniform(0, 16))
    return _bands(position, spread(draw.integer(6, 12).float()))


def _checker(draw: Draw) -> Tensor:
    across, down = _axis_bands(draw)
    return across * (1 - down) + down * (1 - across)


def _plaid(draw: Draw) -> Tensor:
    across, down = _axis_bands(draw)
    return (across + down) / 2


def _horizon(draw: Draw) -> Tensor:
    _, y = pixel_grid()
    return (y - spread(draw.uniform(18, 46)) + 0.5).clamp(0, 1)


def _slope(draw: Draw) -> Tensor:
    x, y = pixel_grid()
    tilt = spread(draw.uniform(-0.5, 0.5))
    return (y - SIZE / 2 - tilt * (x - SIZE / 2) - spread(draw.uniform(-10, 10)) + 0.5).clamp(0, 1)


_LAYOUTS: dict[str, Callable[[Draw], Tensor]] = {
    "flat": _flat,
    "gradient": _gradient,
    "stripes": _stripes,
    "checker": _checker,
    "horizon": _horizon,
    "slope": _slope,
    "plaid": _plaid,
}
_PATTERNS = ("stripes", "checker", "plaid")


def _two_colours(draw: Draw, style: SplitStyle) -> tuple[Tensor, Tensor]:
    palette = torch.tensor(style.palette)
    first = draw.integer(0, len(palette))
    second = (first + draw.integer(1, len(palette))) % len(palette)
    return palette[first] + 0.04 * draw.normal(3), palette[second] + 0.04 * draw.normal(3)


def sample_backgrounds(draw: Draw, style: SplitStyle) -> Tensor:
    """Paint one background per scene: float32 `[B, 3, 64, 64]` in 0..1."""
    first, second = _two_colours(draw, style)
    layout = draw.integer(0, len(style.layouts))
    weight = torch.empty(draw.count, SIZE, SIZE)
    for index, name in enumerate(style.layouts):
        rows = (layout == index).nonzero()[:, 0]
        weight[rows] = _LAYOUTS[name](Draw(draw.generator, len(rows)))
        if name in _PATTERNS:
            second[rows] = torch.lerp(first[rows], second[rows], _PATTERN_CONTRAST)
    image = torch.lerp(first[:, :, None, None], second[:, :, None, None], weight[:, None])
    shading = 1 + _SHADING * (_ramp(draw)[:, None] - 0.5)
    return (image * shading + _NOISE * draw.normal(3, SIZE, SIZE)).clamp(0, 1)
