"""Conditions from folders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from onereward.fill.task import Task
from onereward.training.data.conditions import FILE_NAME, EditDataset
from onereward.training.data.edit_dataset import (
    EditDatasetConfig,
    make_edit_dataset,
)
from onereward.training.data.random_masks import random_mask
from support.recording_host import CancelledError, RecordingHost

HOLE = (20, 24, 43, 47)


def save(path: Path, *, size: tuple[int, int] = (64, 64), mask: str = "file") -> Path:
    """Save an image with a square to repaint: in a file, as its transparent area, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    area = Image.new("L", size, 0)
    ImageDraw.Draw(area).rectangle(HOLE, fill=255)
    if mask == "file":
        area.save(path.with_name(f"{path.stem}_mask.png"))
    elif mask == "alpha":
        image.putalpha(area.point(lambda v: 255 - v))
    image.save(path)
    return path


def make(tmp_path: Path, **changes: Any) -> EditDataset:
    values: dict[str, Any] = {"task": "fill", "prompt": "a red circle"}
    config = EditDatasetConfig(**values | changes)
    return make_edit_dataset(tmp_path / "made", tmp_path / "in", config, RecordingHost())


@pytest.mark.parametrize("mask", ["file", "alpha"])
def test_masks_are_those_of_the_user(tmp_path: Path, mask: str) -> None:
    save(tmp_path / "in" / "x.png", mask=mask)
    dataset = make(tmp_path)
    (condition,) = dataset.conditions
    image, area = dataset.images(condition)
    assert image.shape == (1, 64, 64, 3)
    assert area.sum() == 24 * 24
    assert area[0, 24:48, 20:44].min() == 1
    assert dataset.request(condition).full_prompt() == "a red circle"
    assert dataset.summary() == "1 conditions (fill 1)"


def test_sub_folders_are_tasks_and_texts_come_from_beside_the_image(tmp_path: Path) -> None:
    for task in Task:
        save(tmp_path / "in" / task.value / "x.png")
    (tmp_path / "in" / "fill" / "x.txt").write_text(" a rößlich circle\n", encoding="utf-8")
    (tmp_path / "in" / "text" / "x.text.txt").write_text("AB\nCD", encoding="utf-8")
    dataset = make(tmp_path, task="all", prompt="neon", text="?")
    prompts = {c.task: dataset.request(c).full_prompt() for c in dataset.conditions}
    assert prompts == {
        Task.FILL: "a rößlich circle",
        Task.EXTEND: "neon",
        Task.REMOVE: "remove",
        Task.TEXT: 'the words "AB", and in the next line "CD", neon',
    }


def test_an_extension_shows_nothing_of_what_it_is_to_continue_with(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x.png")
    dataset = make(tmp_path, task="extend")
    image, area = dataset.images(dataset.conditions[0])
    assert image[0][area[0] > 0].unique().tolist() == pytest.approx([0.5], abs=1 / 255)


def test_large_images_are_shrunk_and_sides_are_multiples_of_16(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x.png", size=(300, 190))
    dataset = make(tmp_path, max_side=128)
    image, area = dataset.images(dataset.conditions[0])
    assert image.shape == (1, 80, 128, 3)
    assert area.shape == (1, 80, 128)


def test_what_has_not_changed_keeps_its_name(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x.png")
    copy = save(tmp_path / "in" / "y.png")
    before = {c.name for c in make(tmp_path).conditions}
    assert len(before) == 1, "the same image under two names is one condition"
    Image.new("RGB", (64, 64), "red").save(copy)
    after = {c.name for c in make(tmp_path).conditions}
    assert before < after
    assert after.isdisjoint(c.name for c in make(tmp_path, prompt="a blue circle").conditions)


def test_random_masks_are_repeatable_and_as_many_as_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x.png", mask="none")
    first = make(tmp_path, masks="random", num_conditions=5)
    assert len(first.conditions) == 5
    assert make(tmp_path, masks="random", num_conditions=5).conditions == first.conditions
    reseeded = make(tmp_path, masks="random", num_conditions=5, seed=1)
    assert not set(reseeded.conditions) & set(first.conditions)


@pytest.mark.parametrize("task", list(Task))
def test_a_random_mask_leaves_something_to_look_at(task: Task) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((64, 64), (1024, 48)):
        for _ in range(50):
            histogram = random_mask(task, size, generator).histogram()
            assert histogram[0] + histogram[255] == size[0] * size[1]
            assert 0 < histogram[255] < 0.9 * size[0] * size[1]


@pytest.mark.parametrize(
    ("spoil", "changes", "message"),
    [
        ("no mask", {}, "x.png: has no mask; save one as x_mask.png"),
        ("size", {}, "32x64 pixels but the image is 64x64"),
        ("damaged", {}, r"x\.png cannot be read as an image"),
        ("empty mask", {}, "mask is empty"),
        ("", {"prompt": ""}, "x.png: prompt is empty"),
        ("", {"task": "text"}, "text is empty"),
        ("", {"task": "all"}, "no images in .*sub-folders"),
        ("narrow", {"masks": "random"}, "too small or too narrow"),
        ("none", {}, "no images in"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, spoil: str, changes: dict[str, Any], message: str
) -> None:
    path = save(tmp_path / "in" / "x.png", mask="none" if spoil == "no mask" else "file")
    mask = path.with_name("x_mask.png")
    if spoil == "size":
        Image.new("L", (32, 64)).save(mask)
    elif spoil == "damaged":
        path.write_bytes(path.read_bytes()[:60])
    elif spoil == "empty mask":
        Image.new("L", (64, 64)).save(mask)
    elif spoil == "narrow":
        Image.new("RGB", (640, 9)).save(path)
    elif spoil == "none":
        path.unlink()
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **changes)


def test_cancel_leaves_the_old_list(tmp_path: Path) -> None:
    class Cancelling(RecordingHost):
        def progress(self, step: int, total: int, preview: object = None) -> None:
            if step == 1:
                raise CancelledError

    for number in range(3):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(save(tmp_path / "in" / f"{number}.png"))
    old = make(tmp_path, num_conditions=1)
    config = EditDatasetConfig(task="fill", prompt="x")
    with pytest.raises(CancelledError):
        make_edit_dataset(tmp_path / "made", tmp_path / "in", config, Cancelling())
    assert EditDataset(tmp_path / "made").conditions == old.conditions
    assert (tmp_path / "made" / FILE_NAME).is_file()


def test_settings_survive_json() -> None:
    config = EditDatasetConfig(masks="random", prompt="ß", seed=7)
    assert EditDatasetConfig.from_json(config.to_json()) == config
    assert asdict(config)["task"] == "all"
