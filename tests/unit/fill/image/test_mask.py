from __future__ import annotations

import math

import pytest
import torch

from onereward.fill.image.geometry import Box
from onereward.fill.image.mask import (
    bounding_box,
    composite,
    feather,
    fill_holes,
    grow,
    normalise_mask,
)


def distance_to(mask: torch.Tensor, value: float) -> torch.Tensor:
    """Distance of every pixel to the nearest pixel of that value, by trying all of them."""
    ys, xs = (mask == value).nonzero(as_tuple=True)
    grid_y, grid_x = torch.meshgrid(
        torch.arange(mask.shape[0]), torch.arange(mask.shape[1]), indexing="ij"
    )
    squared = (grid_y[..., None] - ys) ** 2 + (grid_x[..., None] - xs) ** 2
    return squared.min(dim=-1).values.float().sqrt()


@pytest.fixture
def blob() -> torch.Tensor:
    mask = torch.zeros(24, 30)
    mask[8:15, 6:20] = 1
    mask[3:8, 15] = 1
    return mask


@pytest.mark.parametrize("pixels", [1, 3, 6])
def test_grow_reaches_exactly_px_pixels(blob: torch.Tensor, pixels: int) -> None:
    assert torch.equal(grow(blob, pixels), (distance_to(blob, 1.0) <= pixels).float())


def test_grow_by_nothing_and_of_nothing(blob: torch.Tensor) -> None:
    assert torch.equal(grow(blob, 0), blob)
    assert not grow(torch.zeros(5, 5), 3).any()


@pytest.mark.parametrize("pixels", [1, 2, 5])
def test_feather_is_exact_at_both_ends_and_rises_inwards(blob: torch.Tensor, pixels: int) -> None:
    alpha = feather(blob, pixels)
    depth = distance_to(blob, 0.0)
    assert (alpha[blob == 0] == 0).all()
    assert (alpha[blob == 1] > 0).all()
    assert (alpha[depth >= pixels + 1] == 1).all()
    assert (alpha[(depth > 0) & (depth < pixels + 1)] < 1).all()
    order = depth.flatten().argsort()
    assert (alpha.flatten()[order].diff() >= -1e-6).all()


def test_feather_of_a_mask_that_leaves_the_image_stays_one_there() -> None:
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 1
    assert (feather(mask, 3)[:, -1] == 1).all()
    assert torch.equal(feather(torch.ones(4, 4), 3), torch.ones(4, 4))


def test_holes_are_closed_and_bays_are_not() -> None:
    ring = torch.zeros(9, 9)
    ring[2:7, 2:7] = 1
    ring[4, 4] = 0
    assert fill_holes(ring)[4, 4] == 1
    frame = torch.ones(9, 9)
    frame[2:7, 2:7] = 0
    assert torch.equal(fill_holes(frame), frame), "what a frame surrounds is meant to stay"
    bay = ring.clone()
    bay[4, 4:] = 0
    assert torch.equal(fill_holes(bay), bay)


def test_bounding_box() -> None:
    mask = torch.zeros(10, 12)
    assert bounding_box(mask) is None
    mask[3, 4] = 0.1
    mask[7, 11] = 1
    assert bounding_box(mask) == Box(4, 3, 12, 8)


def test_normalise_cleans_traces_and_broadcasts() -> None:
    mask = torch.tensor([[0.0, 0.019, 0.02, 0.5], [0.98, 0.981, 1.0, 1.5]])
    clean = normalise_mask(mask, 3)
    assert clean.shape == (3, 2, 4)
    expected = torch.tensor([[0.0, 0.0, 0.02, 0.5], [0.98, 1.0, 1.0, 1.0]])
    assert torch.equal(clean[2], expected)
    assert mask[0, 1] == 0.019, "the input is not written to"


def test_composite_keeps_old_pixels_bit_for_bit() -> None:
    old = torch.tensor([[[0.1, 1 / 3, 0.7]] * 3])
    new = torch.tensor([[[math.nan, 9.0, -1.0], [1.0, 0.0, 0.5], [1.0, 0.0, 0.5]]])
    alpha = torch.tensor([[0.0, 1.0, 0.25]])
    out = composite(new, old, alpha)
    assert torch.equal(out[0, 0], old[0, 0])
    assert torch.equal(out[0, 1], new[0, 1])
    assert torch.allclose(out[0, 2], 0.25 * new[0, 2] + 0.75 * old[0, 2])
