from __future__ import annotations

from typing import Any

import pytest
import torch

from onereward.fill.config import FillConfig
from onereward.fill.image.geometry import Extension
from onereward.fill.request import FillRequest
from onereward.fill.task import TASKS, Dimension, Task, dimensions_for, text_prompt

IMAGE = torch.full((2, 32, 48, 3), 0.5)
MASK = torch.ones(1, 32, 48)
PART = torch.ones(1, 32, 48)
PART[:, :, :24] = 0
PARTLY = torch.ones(1, 32, 48).tril()


def request(**changes: Any) -> FillRequest:
    return FillRequest(
        **{"task": Task.FILL, "image": IMAGE, "mask": MASK, "prompt": "a red circle"} | changes
    )


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = float("nan")
    return tensor


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.zeros(2, 32, 48, 4)}, "4 channels .RGBA."),
        ({"image": torch.zeros(2, 32, 48, 1)}, "1 channel .greyscale."),
        ({"image": torch.zeros(32, 48, 3)}, "batch, height, width, 3"),
        ({"image": torch.zeros(0, 32, 48, 3)}, "empty batch"),
        ({"image": torch.zeros(1, 15, 48, 3)}, "48x15 pixels"),
        ({"image": torch.zeros(1, 16, 16400, 3)}, "16400x16 pixels"),
        ({"image": torch.zeros(1, 32, 48, 3, dtype=torch.uint8)}, "floating point"),
        ({"image": with_nan(IMAGE)}, "image contains NaN"),
        ({"mask": None}, "mask is missing"),
        ({"mask": with_nan(MASK)}, "mask contains NaN"),
        ({"mask": torch.zeros(1, 64, 64)}, "mask is empty; paint"),
        ({"mask": torch.ones(1, 64, 64)}, "mask is 64x64 pixels but image is 48x32 pixels"),
        ({"mask": torch.ones(3, 32, 48)}, "3 masks but image has 2"),
        ({"mask": torch.ones(1, 1, 32, 48)}, "batch, height, width"),
        ({"stitch_mask": torch.ones(1, 8, 8)}, "stitch_mask is 8x8"),
        ({"stitch_mask": torch.zeros(1, 32, 48)}, "stitch_mask is empty"),
        ({"mask": MASK * 0.05}, "mask is empty .its highest value is 0.05.; paint"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"seed": -1}, "seed is -1"),
        ({"task": Task.TEXT, "text": " \n "}, "text is empty"),
        ({"task": Task.TEXT, "text": 'say "hi"'}, "double quote"),
        ({"task": Task.EXTEND, "mask": None}, "pixels to add per side"),
        ({"task": Task.EXTEND, "extension": Extension(left=4)}, "replace a mask there"),
        ({"extension": Extension(left=4), "mask": None}, "belong to extend"),
        ({"task": Task.REMOVE}, "covers the whole image, but remove"),
        ({"task": Task.EXTEND}, "covers the whole image, but extend"),
        ({"task": Task.REMOVE}, "mask covers the whole image"),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_bad_input_gets_one_sentence(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        request(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": "  a red circle "}, "a red circle"),
        ({"task": Task.REMOVE, "mask": PARTLY, "prompt": ""}, "remove"),
        ({"task": Task.REMOVE, "mask": PARTLY, "prompt": "a cat"}, "remove"),
        (
            {"task": Task.EXTEND, "prompt": "", "extension": Extension(left=4), "mask": None},
            "high-definition, perfect composition",
        ),
        ({"task": Task.EXTEND, "prompt": "a hill", "mask": PART}, "a hill"),
        (
            {"task": Task.TEXT, "prompt": "", "text": "ByteDance\nOneReward"},
            'the words "ByteDance", and in the next line "OneReward"',
        ),
        (
            {"task": Task.TEXT, "prompt": "white neon", "text": "A"},
            'the words "A", white neon',
        ),
    ],
    ids=["fill", "remove", "remove-ignores", "extend", "extend-prompt", "text", "lettering"],
)
def test_prompts_are_the_published_ones(changes: dict, expected: str) -> None:
    assert request(**changes).full_prompt() == expected


def test_batches_take_the_larger_side() -> None:
    assert request().num_images == 2
    assert request(image=IMAGE[:1], mask=torch.ones(5, 32, 48)).num_images == 5
    assert request(mask=torch.ones(32, 48)).num_images == 2


def test_a_context_mask_of_zeros_is_none() -> None:
    assert request(context_mask=torch.zeros(1, 64, 64)).context_mask is None


def test_merged_masks_are_one_and_one_seed_serves_a_batch() -> None:
    masks = torch.zeros(3, 32, 48)
    for i in range(3):
        masks[i, 4 * i, 4 * i] = 1
    merged = request(image=IMAGE[:1], mask=masks, config=FillConfig(merge_masks=True))
    assert merged.num_images == 1
    united = merged.mask_batch("mask")
    assert united is not None
    assert torch.equal(united, masks.amax(0, keepdim=True))
    assert request(image=IMAGE[:1], mask=masks).num_images == 3
    config = FillConfig(same_seed=True, num_candidates=2)
    assert [request(seed=7, config=config).candidate_seed(1, n) for n in (0, 1)] == [7, 8]
    assert request(seed=7).candidate_seed(1, 0) == 8


def test_dimensions_are_those_of_table_1() -> None:
    four = {
        Dimension.TEXT_ALIGNMENT,
        Dimension.CONSISTENCY,
        Dimension.STRUCTURE,
        Dimension.AESTHETICS,
    }
    assert set(TASKS) == set(Task)
    assert set(dimensions_for(Task.FILL, "x")) == set(dimensions_for(Task.TEXT, "x")) == four
    assert set(dimensions_for(Task.EXTEND, "")) == four - {Dimension.TEXT_ALIGNMENT}
    assert dimensions_for(Task.REMOVE, "") == (Dimension.REMOVAL_QUALITY,)


def test_words_are_one_line_each() -> None:
    assert text_prompt("A\n\n B ") == 'the words "A", and in the next line "B"'
