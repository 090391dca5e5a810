"""Scenes of the toy world as an edit data set, and back from a condition's name to its scene."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from ..fill.host import Host
from ..fill.task import Task
from ..training.data.conditions import EditDataset, write_conditions
from ..training.data.edit_dataset import ALL_TASKS, EditDatasetConfig, Item, make_condition
from .world.conditions import EXTEND_PROMPT, TASKS, Conditions, sample_conditions
from .world.splits import Split

MAX_SCENES = 100_000
"""Scenes per seed."""
_SCENE = re.compile(rf"world-(\w+)-({'|'.join(TASKS)})-(\d+)")


def make_from_world(
    folder: Path, split: Split, config: EditDatasetConfig, host: Host
) -> EditDataset:
    """Write scenes of the toy world into ``folder``; the oracle knows them by their names."""
    tasks = list(Task) if config.task == ALL_TASKS else [Task(config.task)]
    total = config.num_conditions or 64

    def scenes() -> Iterator[Item]:
        for number in range(total):
            host.progress(number, total)
            yield _scene(split, tasks[number % len(tasks)], config.seed * MAX_SCENES + number)

    return write_conditions(folder, scenes())


def scene_of(condition: str) -> tuple[Split, Task, int] | None:
    """Return which scene of the toy world a condition is, by its name; None if it is none."""
    found = _SCENE.fullmatch(condition)
    if found is None or found[1] not in {split.value for split in Split}:
        return None
    return Split(found[1]), Task(found[2]), int(found[3])


def draw_scene(condition: str) -> Conditions | None:
    """Draw the scene of a condition again, by its name; None if it is none."""
    scene = scene_of(condition)
    if scene is None:
        return None
    split, task, index = scene
    return sample_conditions(split, index, torch.tensor([TASKS.index(task.value)]))


def _scene(split: Split, task: Task, index: int) -> Item:
    scene = sample_conditions(split, index, torch.tensor([TASKS.index(task.value)]))
    prompt, words = scene.prompts[0], ""
    if task is Task.TEXT:
        prompt, words = "", prompt.split('"')[1]
    elif task is Task.REMOVE or prompt == EXTEND_PROMPT:
        prompt = ""
    name = f"world-{split.value}-{task.value}-{index}"
    return (
        make_condition(name, task, prompt, words),
        scene.source[0].permute(1, 2, 0),
        scene.mask[0],
    )
