"""Small runs of policy training: the bundled fill model, a judge of random weights, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from onereward.fill.task import Task
from onereward.training.data.conditions import Condition, write_conditions
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.run import RunModels, load

from .bundled_models import BUNDLED, bundled_models


def make_conditions(folder: Path, per_task: int = 6) -> Path:
    """Write random images with square masks, all tasks, enough for every split."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for index in range(4 * per_task):
        task = list(Task)[index % 4]
        mask = torch.zeros(64, 64)
        mask[16 + index % 5 : 40, 20:44] = 1
        name = f"{task.value}-{index}"
        condition = Condition(
            name=name,
            task=task,
            image_file_name=f"{name}.png",
            mask_file_name=f"{name}.mask.png",
            prompt="a red circle" if task is Task.FILL else "",
            text="AB" if task is Task.TEXT else "",
        )
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)
        items.append((condition, image[0].permute(1, 2, 0), mask))
    write_conditions(folder, items)
    return folder


def policy_config(run: Path, conditions: Path, judge: Path, **changes: Any) -> PolicyTrainConfig:
    """Return a run of a few quick steps that uses every source of randomness."""
    values: dict[str, Any] = {
        "run_folder": str(run),
        "model": {"folder": str(BUNDLED), "precision": "fp32"},
        "dataset_folder": str(conditions),
        "judges": ({"folder": str(judge), "precision": "fp32"},),
        "steps": 3,
        "batch_size": 3,
        "micro_batch_size": 2,
        "rank": 4,
        "alpha": 4.0,
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "sampling_steps": 3,
        "ema_decay": 0.5,
        "t1": 0.0,
        "gradient_checkpointing": "off",
        "shift": 2,
        "blur": 0.5,
        "noise": 0.02,
        "eval_every": 0,
    }
    return PolicyTrainConfig(**values | changes)


def run_models_for(config: PolicyTrainConfig) -> RunModels:
    """Return the models of a run, with the session's shared fill model."""
    fresh = load(config, torch.device("cpu"))
    return RunModels(models=bundled_models(), judges=fresh.judges, eval_judge=fresh.eval_judge)
