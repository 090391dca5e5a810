"""Policies: alg. 1 and 2, supervised baselines, ablations, and runs that are meant to be hacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...fill.task import Task
from ...training.data.conditions import EditDataset, save_image, write_conditions
from ...training.data.edit_dataset import Item
from ...training.policy.config import DYNAMIC, FIXED
from ...training.policy.run import ADAPTER, train_policy
from ..adapters.control import make_scenes
from ..toy_dataset import scene_of
from ..world.conditions import TASKS, sample_conditions
from .config import ReproduceConfig
from .judge_stages import MAIN_JUDGE, NAIVE_JUDGE, judge_folder
from .stage import Context, Stage, Work

SUPERVISED = "supervised"
TRUTHS = "truths"
HACK_RUNS = {MAIN_JUDGE: "hack-bundled", NAIVE_JUDGE: "hack-naive"}
"""Judge to the policy that is trained against it until it is hacked, if it can be."""
AS_CONFIGURED = "as configured"
"""The ablation that varies nothing."""
_STOPPED = "stopped at step"


def policy_stages(config: ReproduceConfig) -> list[Stage]:
    """Return everything that trains a policy."""
    needs = ("conditions", f"{MAIN_JUDGE}-report")
    stages = [
        Stage(name="conditions", work=_make_conditions),
        *(
            Stage(name=name, work=_train(name, MAIN_JUDGE, {"algorithm": name}), needs=needs)
            for name in (FIXED, DYNAMIC)
        ),
    ]
    for name, changes in supervised_runs(config).items():
        work = _train(name, None, changes)
        stages.append(Stage(name=name, work=work, needs=("conditions",)))
    for judge, name in HACK_RUNS.items():
        work = _train(name, judge, {"save_total_limit": 100, "stop_on_drift": False} | config.hack)
        stages.append(Stage(name=name, work=work, needs=("conditions", f"{judge}-report")))
    for name, changes in ablation_runs(config).items():
        stages.append(Stage(name=name, work=_train(name, MAIN_JUDGE, changes), needs=needs))
    return stages


def supervised_runs(config: ReproduceConfig) -> dict[str, dict[str, Any]]:
    """Return name and settings of supervised fine-tuning: one for all tasks, one per task."""
    settings = {
        **{"objective": "supervised", "dataset_folder": str(config.folder / TRUTHS)},
        **config.supervised,
    }
    single = {f"{SUPERVISED}-{t.value}": settings | config.task_weights(t) for t in Task}
    return {SUPERVISED: settings} | single


def ablation_runs(config: ReproduceConfig) -> dict[str, dict[str, Any]]:
    """Return name and settings of every ablation: one setting at a time, and one task at a time."""
    varied = {AS_CONFIGURED: {}} | config.ablations
    # A single task gets its share of the multi-task run's steps, so that both see as many edits.
    share = config.ablation_share / len(Task)
    single = {
        f"only {task.value}": config.task_weights(task) | config.fewer_steps(share) for task in Task
    }
    few = config.fewer_steps(config.ablation_share)
    return {
        ablation_name(name, seed): few | changes | {"seed": config.seed + seed}
        for seed in config.ablation_seeds
        for name, changes in (varied | single).items()
    }


def ablation_name(name: str, seed: int) -> str:
    """Return the stage's name."""
    return f"ablation {name}, seed {seed}".replace(" ", "-").replace(",", "")


def adapter_of(config: ReproduceConfig, name: str) -> Path:
    """Return a policy's result."""
    return config.folder / "policies" / name / ADAPTER


def _make_conditions(context: Context) -> bool:
    """Make the scenes, and once more with their true results for supervised learning."""
    config, folder = context.config, context.folder
    dataset = EditDataset(make_scenes(folder / "conditions", config.conditions, config.seed))
    (folder / TRUTHS / "results").mkdir(parents=True, exist_ok=True)
    write_conditions(folder / TRUTHS, _with_results(dataset, folder / TRUTHS))
    return True


def _with_results(conditions: EditDataset, folder: Path) -> Iterator[Item]:
    for condition in conditions.conditions:
        scene = scene_of(condition.name)
        assert scene is not None, "made from the toy world"
        split, task, index = scene
        truth = sample_conditions(split, index, torch.tensor([TASKS.index(task.value)]))
        paired = replace(condition, result_file_name=f"results/{condition.name}.png")
        save_image(folder / paired.result_file_name, truth.target[0].permute(1, 2, 0))
        image, mask = conditions.images(condition)
        yield paired, image[0], mask[0]


def _train(name: str, judge: str | None, changes: dict[str, Any]) -> Work:
    def work(context: Context) -> bool:
        config = context.config
        folder = judge_folder(config, judge) if judge else None
        train_config = config.policy_config(name, folder, context.minutes, changes)
        result = train_policy(train_config, context.host)
        has_stopped = any(note.startswith(_STOPPED) for note in result.notes)
        return result.step >= train_config.steps or has_stopped

    return work
