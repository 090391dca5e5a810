"""Scenes: the same seeds give the same scenes, and each task's truth is what its prompt says."""

import re

import pytest
import torch

from onereward.lab.world.conditions import TASKS, Conditions, join_conditions, sample_conditions
from onereward.lab.world.lettering import CELL_WIDTH, LETTERS
from onereward.lab.world.shapes import COLOUR_NAMES, COLOUR_VALUES, SHAPE_NAMES
from onereward.lab.world.splits import Split, scene_generator, style_of

BATCH = 64


def _scenes(task: str, split: Split = Split.TRAIN, index: int = 5) -> Conditions:
    return sample_conditions(split, index, torch.full((BATCH,), TASKS.index(task)))


def test_same_arguments_give_the_same_scenes():
    tasks = torch.arange(16) % 4
    first, again = (sample_conditions(Split.TEST, 3, tasks) for _ in range(2))
    assert first.prompts == again.prompts
    assert torch.equal(first.target, again.target)
    assert torch.equal(first.mask, again.mask)
    second = sample_conditions(Split.TEST, 4, tasks)
    assert not torch.equal(first.target, second.target)


@pytest.mark.parametrize("task", TASKS)
def test_masks_are_binary_and_leave_something_on_both_sides(task: str):
    mask = _scenes(task).mask
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    share = mask.mean((1, 2))
    assert (share > 0.01).all()
    assert (share < 0.95).all()


@pytest.mark.parametrize("task", ["fill", "text", "remove"])
def test_source_and_target_differ_under_the_mask_only(task: str):
    scenes = _scenes(task)
    differs = (scenes.source - scenes.target).abs().amax(1) > 0.02
    assert not (differs & (scenes.mask < 0.5)).any()
    assert (differs.sum((1, 2)) > 20).all()


def test_fill_paints_the_colour_the_prompt_names():
    scenes = _scenes("fill")
    for row, prompt in enumerate(scenes.prompts):
        colour, shape = re.fullmatch(r"a (\w+) (\w+)", prompt).groups()  # type: ignore[union-attr]
        assert SHAPE_NAMES[scenes.shape[row]] == shape
        solid = scenes.coverage[row] > 0.99
        painted = scenes.target[row][:, solid].mean(1)
        nearest = torch.cdist(painted[None], COLOUR_VALUES).argmin()
        assert COLOUR_NAMES[nearest] == colour


def test_text_box_holds_exactly_the_letters_of_the_prompt():
    scenes = _scenes("text")
    for row, prompt in enumerate(scenes.prompts):
        word = re.fullmatch(r'the words "([A-Z]{1,4})"', prompt).group(1)  # type: ignore[union-attr]
        assert [LETTERS.index(letter) for letter in word] == scenes.letters[row][
            : len(word)
        ].tolist()
        x0, _, x1, _ = scenes.box[row].tolist()
        assert x1 - x0 == len(word) * CELL_WIDTH


def test_prompted_extensions_show_part_of_the_object_and_hide_part():
    scenes = _scenes("extend")
    prompted = scenes.shape >= 0
    assert prompted.any()
    assert not prompted.all()
    visible = (scenes.coverage * (1 - scenes.mask)).sum((1, 2))[prompted]
    hidden = (scenes.coverage * scenes.mask).sum((1, 2))[prompted]
    assert (visible > 0).all()
    assert float(((visible / (visible + hidden)) > 0.3).float().mean()) > 0.9
    unprompted = [p for p, is_object in zip(scenes.prompts, prompted, strict=True) if not is_object]
    assert set(unprompted) == {"high-definition, perfect composition"}


def test_test_split_has_fonts_palettes_and_layouts_that_train_lacks():
    train, test = style_of(Split.TRAIN), style_of(Split.TEST)
    assert not set(train.fonts) & set(test.fonts)
    assert not set(train.palette) & set(test.palette)
    assert set(test.layouts) > set(train.layouts)


def test_splits_never_share_a_seed():
    seeds = [scene_generator(s, i).initial_seed() for s in Split for i in (0, 1, 10**9 - 1)]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(ValueError, match="does not exist"):
        scene_generator(Split.TRAIN, 10**9)


def test_photographs_become_the_backgrounds():
    photos = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scenes = sample_conditions(Split.TRAIN, 0, torch.full((4,), TASKS.index("text")), photos)
    outside = (scenes.mask < 0.5)[:, None].expand(-1, 3, -1, -1)
    is_photo = (scenes.source == photos) | ~outside
    assert float(is_photo.float().mean()) > 0.95  # distractors may cover the rest
    with pytest.raises(ValueError, match="one 3x64x64 per scene"):
        sample_conditions(Split.TRAIN, 0, torch.zeros(5, dtype=torch.long), photos)


def test_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"tasks are \[7\]"):
        sample_conditions(Split.TRAIN, 0, torch.tensor([7]))


def test_joining_selected_rows_restores_the_batch():
    scenes = _scenes("remove")
    half = torch.arange(BATCH // 2)
    joined = join_conditions([scenes.select(half), scenes.select(half + BATCH // 2)])
    assert torch.equal(joined.source, scenes.source)
    assert joined.prompts == scenes.prompts
