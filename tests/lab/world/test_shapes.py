"""Shapes against closed forms of their areas, colours against each other."""

import math

import pytest
import torch

from onereward.lab.world.shapes import COLOUR_VALUES, SHAPE_NAMES, shape_coverage

RADIUS = 24.0


def _regular_triangle_area(inradius: float) -> float:
    return 3 * math.sqrt(3) * inradius**2


def _star_area(outer: float, inner: float) -> float:
    return 5 * outer * inner * math.sin(math.pi / 5)


AREAS = {
    "circle": math.pi * RADIUS**2,
    "square": (2 * 0.88 * RADIUS) ** 2,
    "triangle": _regular_triangle_area(0.6 * RADIUS),
    "star": _star_area(1.0 * RADIUS, 0.43 * RADIUS),
    "ring": math.pi * RADIUS**2 * (1 - 0.48**2),
    "cross": RADIUS**2 * (2 * 2 * 0.6 - 0.6**2),
}


@pytest.mark.parametrize("name", SHAPE_NAMES)
def test_area_agrees_with_geometry(name: str):
    kind = torch.tensor([SHAPE_NAMES.index(name)])
    centre = torch.tensor([32.0])
    coverage = shape_coverage(kind, centre, centre, torch.tensor([RADIUS]))
    assert float(coverage.sum()) == pytest.approx(AREAS[name], rel=0.02)


def test_every_shape_is_mirrored_and_moves_with_its_centre():
    kinds = torch.arange(len(SHAPE_NAMES))
    radius = torch.full((len(kinds),), 12.0)
    here = shape_coverage(
        kinds, torch.full_like(radius, 32.0), torch.full_like(radius, 30.0), radius
    )
    there = shape_coverage(
        kinds, torch.full_like(radius, 32.0), torch.full_like(radius, 35.0), radius
    )
    torch.testing.assert_close(here, here.flip(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(here[:, :59], there[:, 5:], atol=1e-3, rtol=0)


def test_colours_are_far_apart():
    distance = torch.cdist(COLOUR_VALUES, COLOUR_VALUES) + torch.eye(len(COLOUR_VALUES)) * 9
    assert float(distance.min()) > 0.4
