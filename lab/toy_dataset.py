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
"""Scenes per seed of a data set: seeds share no scene."""
_DEFAULT_SCENES = 64
_SCENE = re.compile(rf"world-(\w+)-({'|'.join(TASKS)})-(\d+)")


def make_from_world(
    folder: Path, split: Split, config: EditDatasetConfig, host: Host
) -> EditDataset:
    """Write scenes of the toy world as a data set; the oracle identifies them by their names.

    Args:
        folder: Where it goes.
        split: Split of the scenes.
        config: Its ``task``, ``num_conditions`` (0 = 64) and ``seed`` are used.
        host: Told about progress.
    """
    tasks = list(Task) if config.task == ALL_TASKS else [Task(config.task)]
    total = config.num_conditions or _DEFAULT_SCENES

    def scenes() -> Iterator[Item]:
        for position in range(total):
            host.progress(position, total)
            task, index = tasks[position % len(tasks)], config.seed * MAX_SCENES + position
            yield _make_item(split, task, index)

    return write_conditions(folder, scenes())


def scene_of(condition: str) -> tuple[Split, Task, int] | None:
    """Return which scene of the toy world a condition is, by its name; None if it is none.

    Example:
        >>> scene_of("world-dev-fill-12")
        (<Split.DEV: 'dev'>, <Task.FILL: 'fill'>, 12)
    """
    match = _SCENE.fullmatch(condition)
    if match is None or match[1] not in {split.value for split in Split}:
        return None
    return Split(match[1]), Task(match[2]), int(match[3])


def sample_scene(condition: str) -> Conditions | None:
    """Draw the scene of a condition again, by its name; None if it is none."""
    scene = scene_of(condition)
    return None if scene is None else _draw(*scene)


def _draw(split: Split, task: Task, index: int) -> Conditions:
    return sample_conditions(split, index, torch.tensor([TASKS.index(task.value)]))


def _make_item(split: Split, task: Task, index: int) -> Item:
    """Return a scene as a condition with image ``[H, W, 3]`` and mask ``[H, W]``."""
    scene = _draw(split, task, index)
    prompt, text = scene.prompts[0], ""
    if task is Task.TEXT:
        prompt, text = "", prompt.split('"')[1]
    elif task is Task.REMOVE or prompt == EXTEND_PROMPT:
        prompt = ""
    name = f"world-{split.value}-{task.value}-{index}"
    return (
        make_condition(name, task, prompt, text),
        scene.source[0].permute(1, 2, 0),
        scene.mask[0],
    )
