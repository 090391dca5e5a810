"""What was planned and what training has cost, as JSON values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors import safe_open

from ....fill.task import Task
from ....reward.preference import split_of
from ....reward.report import read_report
from ....training.data.conditions import EditDataset
from ....training.data.generate import GenerateConfig
from ....training.evaluation.config import EvalConfig
from ....training.evaluation.report import MAX_IMAGES
from ....training.policy.adapter_file import read_about
from ....training.policy.config import DYNAMIC, FIXED, PolicyTrainConfig
from ....training.policy.monitoring.drift import Drift
from ....training.policy.reward_cells import ALL_CELLS, select_reward_cells
from ...judge.config import CompareConfig
from ...judge.pairs.candidates import BATCH
from ...oracle import DIMENSIONS
from ...world.canvas import SIZE
from ...world.conditions import TASKS
from ..config import ReproduceConfig
from ..figures import read_metrics
from ..judge_stages import MAIN_JUDGE, NAIVE_JUDGE, judge_folder, judge_stages, run_name
from ..measurements import BASE, BEST, FIRST, WINDOW
from ..policies import AS_CONFIGURED, HACK_RUNS, ablation_name, adapter_of, supervised_runs
from ..stage import Context, commit
from .numbers import Numbers
from .paired import ALPHA

Records = Mapping[str, Mapping[str, Any]]
"""What the finished stages' files say, by stage."""
TRUE_IMAGES = "true images"
ENDS = 25
"""Most steps that the reward at the start and at the end is averaged over."""


def plan_numbers(context: Context) -> Numbers:
    """Return the plan: the stages' own configs as they were used, and what follows from them."""
    # The configs of the stages, and what follows from them.
    config = context.config
    last = config.judge_config(len(config.judge) - 1, Path("run"), Path("before"), 60.0)
    assert isinstance(last, CompareConfig), "checked when the config was made"
    pool, judge = config.pool_config(60.0), Path("judge")
    policy = config.policy_config("any", judge, 60.0, {})
    hack = config.policy_config("any", judge, 60.0, {"stop_on_drift": False} | config.hack)
    splits = Counter(
        split_of(condition.name)
        for condition in EditDataset(context.folder / "conditions").conditions
    )
    recipe = json.loads((Path(config.fill_folder) / "recipe.json").read_text(encoding="utf-8"))
    # Everything that the template's prose names.
    return {
        "config": json.loads(config.to_json()),
        "policy": json.loads(policy.to_json()),
        "task_weights": {task.value: weight for task, weight in policy.task_weights().items()},
        "hack": json.loads(hack.to_json()),
        "judge": json.loads(last.to_json()),
        "margins": dict(zip(DIMENSIONS, last.margins, strict=True)),
        "candidates": asdict(GenerateConfig(steps=pool.steps)),
        "candidate_scenes": [BATCH * batches for batches in pool.batches],
        "policy_scenes": {"learned": splits["train"], "held_out": splits["dev"]},
        "evaluation": asdict(EvalConfig(seed=config.seed)),
        "recipe": recipe,
        "parameters": {
            "base": count_weights(Path(config.fill_folder) / "transformer"),
            "judge": count_weights(judge_folder(config, MAIN_JUDGE)),
        },
        "ablation_steps": config.fewer_steps(config.ablation_share)["steps"],
        "single_task_steps": config.fewer_steps(config.ablation_share / len(Task))["steps"],
        "reward_cells": _reward_cells(context, policy.min_judge_accuracy),
        "num_tasks": len(Task),
        "image_size": SIZE,
        "alpha": ALPHA,
        "reward_window": {"mean": WINDOW, "start": FIRST, "ends": ENDS},
        "photographs_on_sheet": MAX_IMAGES,
    }


def run_numbers(config: ReproduceConfig, stages: Records) -> Numbers:
    """Return the commits of the stages and of the report, and how long it took."""
    commits = Counter(str(stage["commit"]) or "unknown" for stage in stages.values())
    run: Numbers = {
        "commits": dict(sorted(commits.items())),
        "report_commit": commit() or "unknown",
        "stages": len(stages),
        "workers": config.workers,
    }
    if stages:
        longest = max(stages, key=lambda name: stages[name]["seconds"])
        run |= {
            "clock_hours": sum(stage["seconds"] for stage in stages.values()) / 3600,
            "core_hours": sum(stage["cpu_seconds"] for stage in stages.values()) / 3600,
            "longest": {"stage": longest, "minutes": stages[longest]["seconds"] / 60},
        }
    return run


def budget_numbers(context: Context, stages: Records) -> Numbers:
    """Return what every model's training came to, and what was spent before any policy."""
    config = context.config
    models = {
        name: _run_budget(context, [name], stages)
        for name in (*supervised_runs(config), FIXED, DYNAMIC)
    }
    ablations = {}
    for name in (AS_CONFIGURED, *config.ablations, *(f"only {task.value}" for task in Task)):
        runs = [ablation_name(name, seed) for seed in config.ablation_seeds]
        if any(run in stages for run in runs):
            ablations[name] = _run_budget(context, [run for run in runs if run in stages], stages)
    hacked = {
        name: _run_budget(context, [name], stages) for name in HACK_RUNS.values() if name in stages
    }
    return {
        "models": models,
        "best_of_minutes": _minutes(stages, [f"test-{BEST}"]),
        "others": ablations | hacked,
        "before_policies": {
            name: _minutes(stages, runs) for name, runs in _early_stages(config).items()
        },
    }


def _early_stages(config: ReproduceConfig) -> dict[str, list[str]]:
    """Return the stages before any policy, by what they are for."""
    judge, naive = (
        [*(run_name(config, name, k) for k in range(len(config.judge))), f"{name}-report"]
        for name in (MAIN_JUDGE, NAIVE_JUDGE)
    )
    names = [stage.name for stage in judge_stages(config)]
    return {
        "scenes that policies learn from": ["conditions"],
        "candidates, generated and scored": ["pool"],
        "the judge": judge,
        "the naive judge, beyond what both share": [run for run in naive if run not in judge],
        "eq. 3 alone: one judge, and one per dimension": [
            name for name in names if name not in {"pool", *judge, *naive}
        ],
        "the base's images of the test scenes": [f"test-{BASE}"],
    }


def _run_budget(context: Context, runs: Sequence[str], stages: Records) -> Numbers:
    """Read what one or more runs with the same settings have done."""
    steps: list[int] = []
    saved: list[int | None] = []
    stops: set[str] = set()
    config = PolicyTrainConfig.load(context.folder / "policies" / runs[0] / "config.json")
    for run in runs:
        metrics, adapter = read_metrics(context, run), adapter_of(context.config, run)
        steps.append(int(metrics[-1]["step"]) if metrics else 0)
        saved.append(read_about(adapter).get("step") if adapter.is_file() else None)
        if metrics and steps[-1] < config.steps:
            stops.add(_stop_reason(metrics[-1]))
    return {
        "learns_from": _teacher(config),
        "seeds": len(runs),
        "steps": steps,
        "planned_steps": config.steps,
        "saved_steps": saved,
        "edits": sum(steps) * config.batch_size,
        "learning_rate": config.learning_rate,
        "kl_weight": config.kl_weight,
        "core_minutes": _minutes(stages, runs),
        "stop_reasons": sorted(stops),
    }


def _teacher(config: PolicyTrainConfig) -> str:
    """Return what a policy learned from; a judge is known by its run's folder."""
    if not config.judges:
        return TRUE_IMAGES
    run = Path(config.judges[0]["folder"]).parent.name
    return NAIVE_JUDGE if run.startswith(f"{NAIVE_JUDGE}-") else MAIN_JUDGE


def _stop_reason(record: Mapping[str, float]) -> str:
    """Return why a run stopped itself at its last record; empty: the record does not say."""
    values = {f.name: record.get(f"drift.{f.name}") for f in fields(Drift)}
    if any(value is None for value in values.values()):
        return ""
    return Drift(**values).complaint() or ""  # type: ignore[arg-type]


def _minutes(stages: Records, names: Sequence[str]) -> float | None:
    """Return the core-minutes of stages together; None: none of them is finished."""
    seconds = [stages[name]["cpu_seconds"] for name in names if name in stages]
    return sum(seconds) / 60 if seconds else None


def _reward_cells(context: Context, min_accuracy: float) -> Numbers:
    """Return for which pairs of task and dimension the judge is accurate enough to reward."""
    report = read_report(judge_folder(context.config, MAIN_JUDGE))
    try:
        cells = select_reward_cells([report], min_accuracy)
    except ValueError:
        return {"count": 0, "total": len(ALL_CELLS), "missing_tasks": TASKS, "notes": []}
    tasks = {task.value for task, _ in cells.cells}
    return {
        "count": len(cells.cells),
        "total": len(ALL_CELLS),
        "missing_tasks": [task for task in TASKS if task not in tasks],
        "notes": list(cells.notes),
    }


def reward_numbers(context: Context) -> Numbers:
    """Return the mean reward of alg. 1 and 2 per task and dimension, first and last steps."""
    ends = {}
    for name in (FIXED, DYNAMIC):
        metrics = read_metrics(context, name)
        steps = max(min(ENDS, len(metrics) // 4), 1)
        ends[name] = {
            "first": _mean_rewards(metrics[:steps]),
            "last": _mean_rewards(metrics[-steps:]),
        }
    cells = {cell for run in ends.values() for rewards in run.values() for cell in rewards}
    return {
        cell: {
            name: {end: rewards.get(cell) for end, rewards in run.items()}
            for name, run in ends.items()
        }
        for cell in sorted(cells)
    }


def _mean_rewards(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of ``task.dimension`` over the records that have it."""
    names = {name for record in records for name in record if name.partition(".")[0] in TASKS}
    return {
        name: fmean(record[name] for record in records if name in record)
        for name in names
        if "." in name
    }


def count_weights(folder: Path) -> int:
    """Return how many weights the safetensors files of a folder hold."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                total += prod(file.get_slice(name).get_shape())
    return total
