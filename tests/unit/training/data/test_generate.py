"""Conditions and candidates: what is written can be read, repeated and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.task import Task
from onereward.reward.preference import PreferenceSet
from onereward.training.data.conditions import (
    FILE_NAME,
    Condition,
    EditDataset,
    read_image,
    save_image,
    write_conditions,
)
from onereward.training.data.generate import GenerateConfig, generate_candidates, sample_settings
from support.bundled_models import bundled_models
from support.damage import damaged_images
from support.recording_host import CancelledError, RecordingHost

QUICK = GenerateConfig(num_candidates=2, steps=(1, 2))


def condition(name: str, task: Task = Task.FILL, **changes: Any) -> Condition:
    values: dict[str, Any] = {
        "name": name,
        "task": task,
        "image_file_name": f"{name}/image.png",
        "mask_file_name": f"{name}/mask.png",
        "prompt": "a red circle" if task is Task.FILL else "",
        "text": "AB" if task is Task.TEXT else "",
    }
    return Condition(**values | changes)


@pytest.fixture
def conditions(tmp_path: Path) -> EditDataset:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(64, 64)
    mask[20:40, 20:44] = 1
    items = [
        (condition(task.value, task), torch.rand(64, 64, 3, generator=generator), mask)
        for task in Task
    ]
    return write_conditions(tmp_path / "conditions", items)


def test_conditions_come_back_as_they_were(conditions: EditDataset) -> None:
    again = EditDataset(conditions.folder)
    assert again.conditions == [condition(task.value, task) for task in Task]
    image, mask = again.images(again.conditions[0])
    assert image.shape == (1, 64, 64, 3)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    prompts = {c.task: again.request(c).full_prompt() for c in again.conditions}
    assert prompts[Task.TEXT] == 'the words "AB"' == again.conditions[3].full_prompt
    assert prompts[Task.REMOVE] == "remove"


def test_candidates_are_written_listed_and_reproducible(
    conditions: EditDataset, tmp_path: Path
) -> None:
    once, again = PreferenceSet(tmp_path / "one"), PreferenceSet(tmp_path / "other")
    assert generate_candidates(conditions, bundled_models(), once, QUICK, RecordingHost()) == 8
    generate_candidates(conditions, bundled_models(), again, QUICK, RecordingHost())
    assert once.groups() == again.groups()
    for group in once.groups():
        for name in (*group.file_names, group.source_file_name, group.mask_file_name):
            assert once.image(name).read_bytes() == again.image(name).read_bytes()
        first, second = (once.image(name).read_bytes() for name in group.file_names)
        assert first != second


def test_a_run_that_was_cancelled_goes_on(conditions: EditDataset, tmp_path: Path) -> None:
    whole, parts = PreferenceSet(tmp_path / "whole"), PreferenceSet(tmp_path / "parts")
    generate_candidates(conditions, bundled_models(), whole, QUICK, RecordingHost())
    with pytest.raises(CancelledError):
        generate_candidates(
            conditions, bundled_models(), parts, QUICK, RecordingHost(cancel_at_call=12)
        )
    assert len(parts.groups()) < 4
    assert all(parts.image(n).is_file() for g in parts.groups() for n in g.file_names)
    generate_candidates(conditions, bundled_models(), parts, QUICK, RecordingHost())
    assert parts.groups() == whole.groups()
    assert generate_candidates(conditions, bundled_models(), parts, QUICK, RecordingHost()) == 0


@pytest.mark.parametrize("changes", [{"num_candidates": 3}, {"steps": (3, 4)}, {"seed": 7}])
def test_other_settings_in_the_same_data_are_refused(
    changes: dict[str, Any], conditions: EditDataset, tmp_path: Path
) -> None:
    data = PreferenceSet(tmp_path / "data")
    generate_candidates(
        conditions, bundled_models(), data, replace(QUICK, max_conditions=1), RecordingHost()
    )
    with pytest.raises(ValueError, match="made with other settings; choose another name"):
        generate_candidates(
            conditions, bundled_models(), data, replace(QUICK, **changes), RecordingHost()
        )
    assert generate_candidates(conditions, bundled_models(), data, QUICK, RecordingHost()) == 6


def test_settings_vary_within_their_ranges() -> None:
    config = GenerateConfig(num_candidates=64)
    fills = [fill for fill, _ in sample_settings(config, "x")]
    assert all(8 <= fill.steps <= 30 for fill in fills)
    assert all(1.0 <= fill.true_cfg <= 5.0 for fill in fills)
    assert {fill.negative_prompt for fill in fills} == {"nsfw", "blurry", "low quality", ""}
    assert len({seed for _, seed in sample_settings(config, "x")}) == 64
    assert list(sample_settings(config, "x")) != list(sample_settings(config, "y"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_candidates": 0}, "1 to 64"),
        ({"steps": (9, 3)}, "smaller value first"),
        ({"guidance": (-1.0, 3.0)}, "guidance goes from -1, the model's recipe, to 3"),
        ({"denoise": (0.0, 1.0)}, "denoise is 0"),
        ({"negative_prompts": ()}, "at least one"),
    ],
)
def test_impossible_variation_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ('{"task": "paint"}', "line 2"),
        (json.dumps({"colour": 1}), r"unknown settings \['colour'\]"),
    ],
)
def test_a_damaged_list_is_named(conditions: EditDataset, line: str, message: str) -> None:
    path = conditions.folder / FILE_NAME
    path.write_text(path.read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        EditDataset(conditions.folder)


def test_bad_conditions_are_refused(conditions: EditDataset, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make the conditions first"):
        EditDataset(tmp_path)
    with pytest.raises(ValueError, match="letters, digits"):
        condition("../x")
    with pytest.raises(ValueError, match="leaves the folder"):
        condition("x", mask_file_name="/etc/passwd")
    path = conditions.folder / FILE_NAME
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="two conditions named 'fill'"):
        EditDataset(conditions.folder)
    (conditions.folder / "fill" / "mask.png").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        conditions.images(conditions.conditions[0])
    path.write_bytes("überblick".encode("latin-1"))
    with pytest.raises(ValueError, match=r"conditions\.jsonl is not text in UTF-8"):
        EditDataset(conditions.folder)
    with pytest.raises(ValueError, match="text is empty; type the text"):
        condition("x", Task.TEXT, text=" ")


@pytest.mark.parametrize("damage", damaged_images())
def test_a_damaged_image_is_named_before_any_work(conditions: EditDataset, damage: str) -> None:
    path = conditions.folder / "text" / "image.png"
    path.write_bytes(damaged_images()[damage])
    with pytest.raises(ValueError, match=r"image\.png cannot be read as an image .*; remove"):
        read_image(path)
    data = PreferenceSet(conditions.folder / "data")
    if damage in ("torn", "unknown chunk"):  # the header is whole
        return
    with pytest.raises(ValueError, match=r"image\.png cannot be read as an image"):
        generate_candidates(conditions, bundled_models(), data, QUICK, RecordingHost())
    assert not data.groups()


def test_an_empty_mask_is_named_before_any_work(conditions: EditDataset) -> None:
    save_image(conditions.folder / "text" / "mask.png", torch.zeros(64, 64))
    data = PreferenceSet(conditions.folder / "data")
    with pytest.raises(ValueError, match="the mask of condition text is empty; paint white"):
        generate_candidates(conditions, bundled_models(), data, QUICK, RecordingHost())
    assert not data.groups()
    with pytest.raises(ValueError, match="condition text: mask is empty"):
        conditions.request(next(c for c in conditions.conditions if c.name == "text"))


def test_a_prompt_may_hold_any_line_break(conditions: EditDataset) -> None:
    """JSON leaves these as they are, and Python takes them for ends of lines."""
    odd = condition("odd", prompt="a\u2028red\x85circle")
    image, mask = torch.rand(64, 64, 3), torch.ones(64, 64)
    dataset = write_conditions(conditions.folder / "odd", [(odd, image, mask)])
    assert dataset.conditions == [odd]
