"""Which shape is it: mattes, and the best fit of each of the six shapes."""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .canvas import SIZE, pixel_grid
from .measure import root
from .shapes import SHAPE_NAMES, shape_coverage

_PROBE_RADIUS = 24.0
_MIN_AREA = 12.0
_RADIUS_STEPS = (0.94, 1.0, 1.06)
_NEAR_SHIFTS = (-2.0, 0.0, 2.0)
_NEAR_SCALES = (0.9, 1.0, 1.12)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShapeFit:
    """The fits of every shape to a matte.

    Example: ``SHAPE_NAMES[fit_shapes(matte, mask).overlap[0].argmax()]``.
    """

    overlap: Tensor
    """Soft intersection over union `[B, 6]`, 1 is perfect."""
    coverage: Tensor
    """Coverage of every fitted shape `[B, 6, 64, 64]`."""
    area: Tensor
    """Area of the matte in pixels, `[B]`."""


def matte_of(image: Tensor, background: Tensor, object_colour: Tensor) -> Tensor:
    """Return how far every pixel went from background to object colour, `[B, H, W]`, 0..1."""
    direction = object_colour[:, :, None, None] - background
    length = direction.square().sum(1).clamp(min=0.02)
    return (((image - background) * direction).sum(1) / length).clamp(0, 1)


def change_matte(image: Tensor, background: Tensor) -> Tensor:
    """Return how clearly every pixel differs from the background, `[B, H, W]`, 0..1."""
    return (root((image - background).square().mean(1)) / 0.3).clamp(0, 1)


@lru_cache(maxsize=1)
def _unit_moments() -> tuple[Tensor, Tensor]:
    """Area per squared radius and vertical centroid per radius of each shape, `[6]` each."""
    kinds = torch.arange(len(SHAPE_NAMES))
    middle = torch.full((len(kinds),), SIZE / 2)
    coverage = shape_coverage(kinds, middle, middle, torch.full((len(kinds),), _PROBE_RADIUS))
    _, y = pixel_grid()
    area = coverage.sum((1, 2))
    drop = (coverage * y).sum((1, 2)) / area - SIZE / 2
    return area / _PROBE_RADIUS**2, drop / _PROBE_RADIUS


def soft_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Return the soft intersection over union over the last two axes."""
    intersection = torch.minimum(first, second).sum((-2, -1))
    return intersection / torch.maximum(first, second).sum((-2, -1)).clamp(min=1e-6)


def fit_shapes(matte: Tensor, mask: Tensor) -> ShapeFit:
    """Fit every shape to a matte `[B, 64, 64]` by its area and centroid, cut off by the mask."""
    # Area and centroid of the matte, `[B]`.
    x, y = pixel_grid()
    clean = torch.where(matte > 0.25, matte, 0.0) * mask
    area = clean.sum((1, 2))
    total = area.clamp(min=1e-6)
    centre_x, centre_y = (clean * x).sum((1, 2)) / total, (clean * y).sum((1, 2)) / total
    unit_area, unit_drop = _unit_moments()
    overlaps, coverages = [], []
    for kind in range(len(SHAPE_NAMES)):
        # Three radii about the one that has the matte's area; the best overlap wins.
        radius = (area / unit_area[kind]).sqrt()
        which = torch.full_like(area, kind, dtype=torch.long)
        tries = [
            shape_coverage(which, centre_x, centre_y - unit_drop[kind] * radius, radius * step)
            * mask
            for step in _RADIUS_STEPS
        ]
        # [B, 3, 64, 64]; chosen, not changed, by a gradient
        stacked = torch.stack(tries, 1).detach()
        overlap = soft_overlap(stacked, clean[:, None])
        best = overlap.argmax(1)
        rows = torch.arange(len(area))
        overlaps.append(overlap[rows, best])
        coverages.append(stacked[rows, best])
    has_shape = (area >= _MIN_AREA).float()
    return ShapeFit(
        overlap=torch.stack(overlaps, 1) * has_shape[:, None],
        coverage=torch.stack(coverages, 1) * has_shape[:, None, None, None],
        area=area,
    )


def fit_shapes_where(selected: Tensor, matte: Tensor, mask: Tensor) -> ShapeFit:
    """Fit shapes in the scenes `selected` (bool `[B]`) alone; the fits of the others are zeros."""
    rows = selected.nonzero()[:, 0]
    fit = fit_shapes(matte[rows], mask[rows])

    def spread_out(values: Tensor) -> Tensor:
        return values.new_zeros(len(selected), *values.shape[1:]).index_copy(0, rows, values)

    return ShapeFit(
        overlap=spread_out(fit.overlap),
        coverage=spread_out(fit.coverage),
        area=spread_out(fit.area),
    )


def fit_near(
    shape: Tensor, placement: Tensor, matte: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Fit a known shape near a known position to what of it lies under the mask.

    A cut object can be completed in more than one way: two pixels to the side or a tenth larger
    is as good as the truth.

    Args:
        shape: Int64 `[B]`.
        placement: Float32 `[B, 3]`, x, y and radius.
        matte: Float32 `[B, 64, 64]`.
        mask: Float32 `[B, 64, 64]`, where to compare.

    Returns:
        Coverage `[B, 64, 64]` of the best fit, and its soft overlap `[B]` under the mask.
    """
    best_overlap = torch.full((len(shape),), -1.0)
    best = torch.zeros_like(matte)
    for dx, dy, scale in itertools.product(_NEAR_SHIFTS, _NEAR_SHIFTS, _NEAR_SCALES):
        x, y, radius = placement.unbind(1)
        coverage = shape_coverage(shape, x + dx, y + dy, radius * scale)
        overlap = soft_overlap(coverage * mask, matte * mask)
        better = overlap > best_overlap
        best = torch.where(better[:, None, None], coverage, best)
        best_overlap = torch.maximum(overlap, best_overlap)
    return best, best_overlap
