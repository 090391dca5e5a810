from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from onereward.reward.metrics import (
    measure,
    outside_difference,
    quoted,
    seam_step,
    text_correct,
    texture_gap,
    tone_step,
)


def frame() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.linspace(0, 0.5, 32)[None, None, :, None].expand(1, 24, 32, 3).clone()
    mask = torch.zeros(1, 24, 32)
    mask[:, 8:16, 10:20] = 1
    return image, mask


def test_outside_difference_sees_one_pixel_of_one_channel() -> None:
    image, mask = frame()
    result = image.clone()
    result[mask == 1] = 0.9
    assert outside_difference(result, image, mask).item() == 0
    result[0, 0, 0, 1] += 0.25
    assert outside_difference(result, image, mask).item() == pytest.approx(0.25)


def test_seam_step_is_the_step_that_was_put_in() -> None:
    image, mask = frame()
    assert abs(seam_step(image, mask).item()) < 0.01, "a ramp has no seam"
    for height in (0.05, 0.2):
        stepped = image + height * mask[..., None]
        grown = seam_step(stepped, mask) - seam_step(image, mask)
        # On the ramp's rising and falling side the step adds to and takes from the ramp's own.
        assert grown.item() == pytest.approx(height, abs=0.01)


def test_seam_step_without_a_border_is_nan() -> None:
    image, mask = frame()
    assert seam_step(image, torch.ones_like(mask)).isnan().all()


def test_batches_are_scored_one_by_one() -> None:
    image, mask = frame()
    stepped = image + 0.3 * mask[..., None]
    steps = seam_step(torch.cat([image, stepped]), torch.cat([mask, mask]))
    assert torch.allclose(steps, torch.cat([seam_step(image, mask), seam_step(stepped, mask)]))


def test_text_needs_words_and_says_how_to_get_the_reader() -> None:
    image, _ = frame()
    with pytest.raises(ValueError, match="words is empty"):
        text_correct(image, " ! ")
    if importlib.util.find_spec("rapidocr") is None:
        with pytest.raises(ImportError, match="pip install rapidocr"):
            text_correct(image, "AB")


def test_drawn_words_are_read() -> None:
    """With the package itself (3.10, its models come in the wheel), where it is installed."""
    pytest.importorskip("rapidocr")
    canvas = Image.new("RGB", (320, 96), "white")
    ImageDraw.Draw(canvas).text((20, 20), "HELLO World", "black", ImageFont.load_default(40))
    image = torch.tensor(np.asarray(canvas))[None].float() / 255
    images = torch.cat([image, torch.ones_like(image)])
    assert text_correct(images, "hello world!") == [1.0, 0.0]
    assert text_correct(images, "hello there") == [0.5, 0.0]


def test_everything_that_can_be_measured_has_its_name() -> None:
    image, mask = frame()
    lighter = image + 0.25
    metrics = measure(torch.cat([image, lighter]), mask, image)
    assert set(metrics) == {"seam_step", "outside_difference"}
    assert metrics["outside_difference"] == pytest.approx([0.0, 0.25])
    assert metrics["seam_step"] == pytest.approx(seam_step(image, mask).tolist() * 2, abs=1e-6)
    assert measure(image, torch.ones_like(mask)) == {"seam_step": [None]}
    with pytest.raises(ValueError, match="mask has shape"):
        measure(image, mask[:, :8])
    with pytest.raises(ValueError, match="source has shape"):
        measure(image, mask, image[:, :8])


def test_words_are_what_stands_in_quotes() -> None:
    assert quoted('the words "AB", and in the next line "C D"') == "AB C D"
    assert quoted("no words") == ""


def test_tone_step_is_the_difference_of_two_flat_halves() -> None:
    image, mask = torch.full((2, 32, 48, 3), 0.25), torch.zeros(2, 32, 48)
    mask[:, :, :20] = 1
    image[1, :, :20] = torch.tensor([0.75, 0.25, 0.5])
    assert tone_step(image, mask).tolist() == pytest.approx([0, 0.25], abs=1e-6)
    assert tone_step(image, torch.ones_like(mask)).isnan().all()


def test_texture_gap_counts_in_powers_of_two() -> None:
    stripes = (torch.arange(48) % 2 - 0.5)[None, None, :, None].expand(1, 48, 48, 3)
    mask = torch.zeros(1, 48, 48)
    mask[:, 16:32, 16:32] = 1
    strength = torch.where(mask > 0, 0.4, 0.1)[..., None]
    # Steps count along one axis of two, and so does the smallest visible one that is added.
    expected = (torch.tensor([0.4, 0.1]) / 2 + 1 / 255).log2().diff().abs().item()
    assert texture_gap(0.5 + stripes * strength, mask).item() == pytest.approx(expected, abs=0.05)
    assert texture_gap(0.5 + stripes * 0.1, mask).item() == pytest.approx(0, abs=0.05)
    assert texture_gap(stripes, torch.ones_like(mask)).isnan().all()
