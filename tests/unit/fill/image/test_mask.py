from __future__ import annotations

import math

import pytest
import torch

from onereward.fill.image.geometry import Box
from onereward.fill.image.mask import (
    TILE,
    bounding_box,
    clean_mask,
    composite,
    feather,
    fill_holes,
    grow,
    without_traces,
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


def test_traces_near_both_ends_are_cleaned() -> None:
    mask = torch.tensor([[0.0, 0.019, 0.02, 0.5], [0.98, 0.981, 1.0, 1.5]])
    expected = torch.tensor([[0.0, 0.0, 0.02, 0.5], [0.98, 1.0, 1.0, 1.0]])
    assert torch.equal(without_traces(mask), expected)
    assert mask[0, 1] == 0.019, "the input is not written to"


def test_distances_are_the_same_across_tiles() -> None:
    """A disc over a corner of the tiles grows as its formula says."""
    y, x = torch.meshgrid(torch.arange(TILE + 60), torch.arange(TILE + 60), indexing="ij")
    distance = (((y - TILE) ** 2 + (x - TILE) ** 2).float()).sqrt()
    point = (distance == 0).float()
    assert torch.equal(grow(point, 40), (distance <= 40).float())
    # From inside, the nearest pixel out of a half plane is straight across.
    half = (x < TILE + 7).float()
    depth = (TILE + 7 - x).clamp_min(0)
    alpha = feather(half, 20)
    t = (depth / 21).clamp(0, 1)
    assert torch.allclose(alpha, t * t * (3 - 2 * t), atol=1e-6)


def patch(side: int = 32, size: int = 256) -> torch.Tensor:
    mask = torch.zeros(size, size)
    mask[40 : 40 + side, 40 : 40 + side] = 1
    return mask


def test_a_stray_pixel_is_no_part_of_the_mask() -> None:
    mask = patch()
    mask[240, 250] = 1
    clean = clean_mask(mask)
    assert torch.equal(clean.solid, patch())
    assert not clean.soft.any()
    assert clean.notes == ("specks of the mask beside a much larger area are left out: 1",)


def test_a_small_mask_is_no_speck() -> None:
    two = torch.zeros(256, 256)
    two[10:12, 10:12] = two[200:202, 200:202] = 1
    assert torch.equal(clean_mask(two).solid, two)
    beside = patch(60)
    beside[200:206, 200:206] = 1
    assert torch.equal(clean_mask(beside).solid, beside), "36 pixels can be meant"


@pytest.mark.parametrize("haze", [0.03, 0.05, 0.2, 0.4])
def test_haze_is_no_part_of_the_mask(haze: float) -> None:
    mask = patch().clamp_min(haze)
    clean = clean_mask(mask)
    assert torch.equal(clean.solid, patch())
    assert not clean.soft.any()
    assert "faint values" in clean.notes[0]


def test_noisy_haze_leaves_next_to_nothing() -> None:
    noise = torch.rand(256, 256, generator=torch.Generator().manual_seed(0)) * 0.1
    clean = clean_mask(torch.maximum(patch(), noise))
    assert torch.equal(clean.solid, patch())
    assert (clean.soft > 0).float().mean() < 0.01
    assert clean.soft.max() < 0.05


def test_a_heat_map_counts_near_its_peak() -> None:
    """Half of a Gaussian's peak is 1.18 sigma away; its tail is over within a few sigma."""
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    heat = torch.exp(-((y - 100) ** 2 + (x - 90) ** 2) / (2 * 15.0**2))
    clean = clean_mask(torch.maximum(heat, 0.3 * torch.exp(-((y - 220) ** 2) / 200)))
    assert torch.equal(clean.solid, (heat >= 0.5).float())
    assert not clean.soft[200:].any(), "a faint area elsewhere is no border"


@pytest.mark.parametrize("radius", [6, 20, 60])
def test_a_soft_brush_keeps_its_whole_border(radius: int) -> None:
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    brush = (1.2 - ((y - 128) ** 2 + (x - 128) ** 2).sqrt() / radius).clamp(0, 1)
    cleaned = without_traces(brush)
    clean = clean_mask(brush)
    assert torch.equal(
        torch.maximum(clean.solid, clean.soft), torch.maximum((cleaned >= 0.5).float(), cleaned)
    )
    assert clean.notes == ()


def test_a_faint_brush_counts_as_painted() -> None:
    clean = clean_mask(patch() * 0.4)
    assert torch.equal(clean.solid, patch())
    assert clean.notes == ("the mask's highest value is 0.40; it counts as fully painted",)
    assert not clean_mask(patch() * 0.05).solid.any()


def test_composite_keeps_old_pixels_bit_for_bit() -> None:
    old = torch.tensor([[[0.1, 1 / 3, 0.7]] * 3])
    new = torch.tensor([[[math.nan, 9.0, -1.0], [1.0, 0.0, 0.5], [1.0, 0.0, 0.5]]])
    alpha = torch.tensor([[0.0, 1.0, 0.25]])
    out = composite(new, old, alpha)
    assert torch.equal(out[0, 0], old[0, 0])
    assert torch.equal(out[0, 1], new[0, 1])
    assert torch.allclose(out[0, 2], 0.25 * new[0, 2] + 0.75 * old[0, 2])
