"""Injected artifacts: results that are wrong in one known way.

They test the oracle and train the judge.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import SIZE, Draw, blend, erode, pixel_grid, spread
from .conditions import TASKS, Conditions
from .lettering import glyph_atlas, word_coverage
from .measure import gradients
from .shapes import COLOUR_VALUES, SHAPE_NAMES, shape_coverage

_FILL, _EXTEND, _REMOVE, _TEXT = range(len(TASKS))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WithArtifact:
    """Results with one artifact.

    Example: ``inject_artifact("blur", scenes, generator).images``.
    """

    images: Tensor
    """Float32 `[B, 3, 64, 64]`."""
    applies: Tensor
    """Bool `[B]`: whether the artifact makes sense in the scene and is visible."""


def inject_artifact(name: str, conditions: Conditions, generator: torch.Generator) -> WithArtifact:
    """Damage the true results in the way `name` (a key of `ARTIFACTS`) says.

    Raises:
        ValueError: There is no such artifact.
    """
    if name not in ARTIFACTS:
        raise ValueError(f"there is no artifact {name!r}; use one of {sorted(ARTIFACTS)}")
    images, applies = ARTIFACTS[name](conditions, Draw(generator, len(conditions)))
    return WithArtifact(images=images.clamp(0, 1), applies=applies)


_Damaged = tuple[Tensor, Tensor]
"""Images `[B, 3, 64, 64]`, not clipped, and where the artifact applies `[B]`."""


def _inside(conditions: Conditions, images: Tensor) -> Tensor:
    return torch.where(conditions.mask[:, None] > 0.5, images, conditions.target)


def _wrong_colour(c: Conditions, draw: Draw) -> _Damaged:
    far = torch.cdist(c.object_colour, COLOUR_VALUES) > 0.5
    weight = c.mask[:, None]
    local = (c.background * weight).sum((2, 3)) / weight.sum((2, 3))
    far &= torch.cdist(local, COLOUR_VALUES) > 0.5
    colour = COLOUR_VALUES[draw.pick(far)]
    hidden = (c.coverage * c.mask).sum((1, 2))
    return _inside(c, blend(c.background, c.coverage, colour)), (c.shape >= 0) & (hidden > 60)


def _extent(coverage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre x, y and half width of an object from its bounding box; `[B]` each."""
    x, y = pixel_grid()
    on = coverage > 0.5
    low = [torch.where(on, axis, 999.0).amin((1, 2)) for axis in (x, y)]
    high = [torch.where(on, axis, -999.0).amax((1, 2)) for axis in (x, y)]
    half = ((high[0] - low[0]) / 2 + 0.5).clamp(1, SIZE)
    return (low[0] + high[0]) / 2, (low[1] + high[1]) / 2, half


def _wrong_shape(c: Conditions, draw: Draw) -> _Damaged:
    x, y, half = _extent(c.coverage)
    shape = (c.shape.clamp(min=0) + draw.integer(1, len(SHAPE_NAMES))) % len(SHAPE_NAMES)
    coverage = shape_coverage(shape, x, y, half)
    return _inside(c, blend(c.background, coverage, c.object_colour)), c.task == _FILL


def _set_words(c: Conditions, letters: Tensor) -> Tensor:
    fonts = torch.arange(len(c)) % len(glyph_atlas())
    x0, y0, _, _ = c.box.unbind(1)
    box = torch.stack([x0, y0, x0, y0], 1)
    coverage = word_coverage(letters, box, fonts)
    return _inside(c, blend(c.background, coverage, c.object_colour))


def _missing_letter(c: Conditions, draw: Draw) -> _Damaged:
    slot = draw.pick(c.letters >= 0)
    letters = c.letters.clone()
    letters[torch.arange(len(c)), slot] = -1
    return _set_words(c, letters), c.task == _TEXT


def _swapped_letters(c: Conditions, draw: Draw) -> _Damaged:
    letters = c.letters.clone()
    letters[:, 0], letters[:, 1] = c.letters[:, 1], c.letters[:, 0]
    fits = (c.task == _TEXT) & (c.letters[:, 1] >= 0) & (c.letters[:, 0] != c.letters[:, 1])
    return _set_words(c, torch.where(fits[:, None], letters, c.letters)), fits


def _leftover(c: Conditions, draw: Draw) -> _Damaged:
    """Keep the object to remove; in an extension, paint a stray one into the new area."""
    x, y, _ = _extent(c.mask)
    corner = draw.chance(0.5)
    x, y = torch.where(corner, 6.0, x), torch.where(corner, y, 6.0)
    shape, colour = draw.integer(0, 2), draw.pick(torch.ones(len(c), len(COLOUR_VALUES)) > 0)
    stray = blend(c.target, shape_coverage(shape, x, y, draw.uniform(6, 9)), COLOUR_VALUES[colour])
    images = torch.where((c.task == _REMOVE)[:, None, None, None], c.source, stray)
    images = _inside(c, images)
    is_visible = (images - c.target).square().mean(1).sqrt() > 0.2  # [B, 64, 64]
    return images, ((c.task == _REMOVE) | (c.task == _EXTEND)) & (is_visible.sum((1, 2)) >= 40)


def _everywhere(c: Conditions) -> Tensor:
    return torch.ones(len(c), dtype=torch.bool)


def _sign(draw: Draw) -> Tensor:
    return torch.where(draw.chance(0.5), 1.0, -1.0)[:, None, None, None]


def _seam(c: Conditions, draw: Draw) -> _Damaged:
    line = (c.mask - erode(c.mask, 2))[:, None]
    shift = 0.2 * _away_from_limits(c)
    return c.target + shift * line, _everywhere(c)


def _away_from_limits(c: Conditions) -> Tensor:
    weight = c.mask[:, None]
    local = (c.target * weight).sum((2, 3)) / weight.sum((2, 3))
    return torch.where(local > 0.5, -1.0, 1.0)[:, :, None, None]


def _tone_shift(c: Conditions, draw: Draw) -> _Damaged:
    return _inside(c, c.target + 0.15 * _away_from_limits(c)), _everywhere(c)


def _blur(c: Conditions, draw: Draw) -> _Damaged:
    steps = torch.arange(-6, 7)
    kernel = torch.exp(-(steps**2) / (2 * 2.5**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(c.target, (6, 6, 6, 6), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
    blurred = F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
    edges = (gradients(c.target).square().mean(1).sqrt() > 0.1) & (c.mask > 0.5)
    return _inside(c, blurred), edges.sum((1, 2)) >= 24


def _noise(c: Conditions, draw: Draw) -> _Damaged:
    return _inside(c, c.target + 0.12 * draw.normal(3, SIZE, SIZE)), _everywhere(c)


def _lattice(c: Conditions, draw: Draw) -> _Damaged:
    x, y = pixel_grid()
    period, height = spread(draw.integer(2, 9).float()), _sign(draw) * 0.35
    dots = (((x - 0.5) % period) < 1) & (((y - 0.5) % period) < 1)
    lines = ((x - 0.5) % period) < 1
    pattern = torch.where(spread(draw.chance(0.5)), lines, dots).float()
    # A lattice as dense as dots can be would otherwise fade with the square of its period.
    strength = torch.where(pattern.mean((1, 2)) < 0.1, 1.5, 1.0)[:, None, None, None]
    images = _inside(c, c.target + height * strength * pattern[:, None]).clamp(0, 1)
    power = (images - c.target).square().mean(1).sum((1, 2)) / c.mask.sum((1, 2))
    return images, power > 0.05**2


def _empty(c: Conditions, draw: Draw) -> _Damaged:
    blank = (c.task == _FILL) | (c.task == _TEXT)
    grey = torch.full_like(c.target, 0.5)
    images = _inside(c, torch.where(blank[:, None, None, None], c.background, grey))
    power = (images - c.target).square().mean((1, 2, 3)) * SIZE**2 / c.mask.sum((1, 2))
    return images, power > 0.15**2


ARTIFACTS: dict[str, Callable[[Conditions, Draw], _Damaged]] = {
    "wrong_colour": _wrong_colour,
    "wrong_shape": _wrong_shape,
    "missing_letter": _missing_letter,
    "swapped_letters": _swapped_letters,
    "leftover": _leftover,
    "seam": _seam,
    "tone_shift": _tone_shift,
    "blur": _blur,
    "noise": _noise,
    "lattice": _lattice,
    "empty": _empty,
}
