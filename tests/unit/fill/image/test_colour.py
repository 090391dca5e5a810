from __future__ import annotations

import pytest
import torch

from onereward.fill.image.colour import correct_colour

SIZE = 96


def scene() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 12, 12, generator=generator) * 0.5 + 0.25
    fine = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic")
    return fine[0].permute(1, 2, 0)


def hole() -> torch.Tensor:
    alpha = torch.zeros(SIZE, SIZE)
    alpha[30:70, 25:65] = 1
    return alpha


def ramp(low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, SIZE)[None, :, None].expand(SIZE, SIZE, 3)


@pytest.mark.parametrize(
    "shift",
    [torch.full((SIZE, SIZE, 3), 0.06), torch.tensor([0.05, -0.04, 0.0]).expand(SIZE, SIZE, 3)],
    ids=["brighter", "tint"],
)
def test_an_even_shift_is_taken_back(shift: torch.Tensor) -> None:
    old, alpha = scene(), hole()
    corrected = correct_colour(old + shift, old, alpha, 1.0)
    left = (corrected - old)[alpha == 1].abs().mean()
    assert left < 0.1 * shift.abs().mean()


def test_a_shift_that_varies_is_followed() -> None:
    old, alpha = scene(), hole()
    shift = ramp(-0.08, 0.08)
    corrected = correct_colour(old + shift, old, alpha, 1.0)
    inside = alpha == 1
    assert (corrected - old)[inside].abs().mean() < 0.4 * shift[inside].abs().mean()
    even = (old + shift) + (old - (old + shift))[alpha == 0].mean(0)
    assert (corrected - old)[inside].abs().mean() < 0.6 * (even - old)[inside].abs().mean()


def test_half_the_amount_takes_back_half() -> None:
    old, alpha = scene(), hole()
    new = old + 0.06
    full = correct_colour(new, old, alpha, 1.0)
    half = correct_colour(new, old, alpha, 0.5)
    assert torch.allclose(half, (new + full) / 2, atol=1e-6)
    assert torch.equal(correct_colour(new, old, alpha, 0.0), new)


def test_new_content_is_left_alone() -> None:
    """What the model painted inside differs from the source; only the ring may decide."""
    old, alpha = scene(), hole()
    new = old.clone()
    new[alpha == 1] = torch.tensor([0.9, 0.1, 0.1])
    assert torch.allclose(correct_colour(new, old, alpha, 1.0), new, atol=1e-4)


def test_without_a_ring_nothing_is_corrected() -> None:
    old = scene()
    new = old + 0.1
    assert torch.equal(correct_colour(new, old, torch.ones(SIZE, SIZE), 1.0), new)
