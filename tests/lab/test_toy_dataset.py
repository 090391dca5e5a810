"""Scenes of the toy world as an edit data set, and the oracle as its ground truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.lab.ground_truth import WorldGroundTruth
from onereward.lab.toy_dataset import make_from_world, scene_of
from onereward.lab.world.conditions import TASKS, sample_conditions
from onereward.lab.world.splits import Split
from onereward.training.charts.contact_sheets import conditions_sheet
from onereward.training.data.edit_dataset import EditDatasetConfig
from support.recording_host import RecordingHost


def test_scenes_of_the_toy_world_are_known_by_name(tmp_path: Path) -> None:
    config = EditDatasetConfig(num_conditions=8, seed=3)
    data = make_from_world(tmp_path, Split.DEV, config, RecordingHost())
    assert [c.task for c in data.conditions] == [*Task, *Task]
    for condition in data.conditions:
        split, task, index = scene_of(condition.name) or pytest.fail("not known")
        assert (split, task) == (Split.DEV, condition.task)
        scene = sample_conditions(split, index, torch.tensor([TASKS.index(task.value)]))
        image, mask = data.images(condition)
        assert torch.allclose(image[0], scene.source[0].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)
        assert torch.equal(mask, scene.mask)
        assert data.request(condition).full_prompt() == scene.prompts[0]
    assert scene_of("fill-x-0123") is None
    assert conditions_sheet(data).shape[-1] == 3


def test_the_truth_of_a_scene_is_usable_and_grey_is_not() -> None:
    truth = WorldGroundTruth()
    for task in TASKS:
        scene = sample_conditions(Split.TEST, 3, torch.tensor([TASKS.index(task)]))
        grey = torch.full((3, 64, 64), 0.5)
        images = torch.stack([scene.target[0], grey])
        assert truth.usable(f"world-test-{task}-3", images) == [True, False]
        scores = truth.scores(f"world-test-{task}-3", images)
        assert scores
        assert all(first > second for first, second in scores.values())
        assert (Dimension.REMOVAL_QUALITY in scores) == (task == "remove")


def test_it_knows_scenes_only() -> None:
    truth = WorldGroundTruth()
    assert truth.knows("world-dev-fill-0")
    assert not truth.knows("fill-x-0123")
    with pytest.raises(ValueError, match="is no scene of the toy world"):
        truth.usable("fill-x-0123", torch.zeros(1, 3, 64, 64))
