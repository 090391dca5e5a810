"""Plans of the reproduction for tests, and the folder of a run that has measured everything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from onereward.fill.task import Task
from onereward.lab.reproduce.config import ReproduceConfig
from onereward.lab.reproduce.judge_stages import MAIN_JUDGE, NAIVE_JUDGE, judge_folder
from onereward.lab.reproduce.measurements import BASE, VOTE_MODELS, tested_models
from onereward.lab.reproduce.policies import HACK_RUNS, ablation_runs, supervised_runs
from onereward.lab.reproduce.stage import Context
from onereward.reward.report import sign_test, wilson_interval
from onereward.training.data.conditions import Condition, write_conditions
from onereward.training.policy.adapter_file import write_adapter
from onereward.training.policy.config import DYNAMIC, FIXED
from onereward.training.policy.run import ADAPTER
from onereward.training.runs.hosts import TrainingHost
from support.machine import ROOT

PLANS = ROOT / "lab" / "reproduce" / "plans"
QUICK, FULL = PLANS / "quick.json", PLANS / "full.json"
TASKS = [task.value for task in Task]
CELL = {"num_pairs": 8, "accuracy": 0.75, "low": 0.4, "high": 0.93, "swap_consistency": 0.5}


def quick(folder: Path, **changes: Any) -> ReproduceConfig:
    plan = ReproduceConfig.load(QUICK)
    folders = {"run_folder": str(folder / "run"), "report": str(folder / "report.md")}
    return replace(plan, **folders | {"fill_folder": str(ROOT / plan.fill_folder)} | changes)


def context_for(config: ReproduceConfig, photos: Path | None = None) -> Context:
    return Context(config=config, host=TrainingHost("cpu"), photos=photos)


def by_task(before: Sequence[bool], after: Sequence[bool]) -> dict[str, dict[str, Any]]:
    """What is recorded of usable images that come task by task."""
    count = len(after) // len(TASKS)
    groups = {task: slice(k * count, (k + 1) * count) for k, task in enumerate(TASKS)}
    tasks = {}
    for name, group in (groups | {"all": slice(None)}).items():
        pairs = list(zip(before[group], after[group], strict=True))
        won, lost = sum(b > a for a, b in pairs), sum(a > b for a, b in pairs)
        share = sum(after[group]) / len(pairs)
        tasks[name] = {
            **{"count": len(pairs), "share": share, "won": won, "lost": lost},
            **{"interval": wilson_interval(share, len(pairs)), "p": sign_test(won, lost)},
        }
    return tasks


def write_usable(context: Context, name: str, usable: Sequence[bool]) -> None:
    path = context.result(name).with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    images = torch.full((len(usable), 3, 64, 64), 90, dtype=torch.uint8)
    save_file({"images": images, "usable": torch.tensor(usable)}, path)


def write_policy(
    context: Context, name: str, changes: Mapping[str, Any], metrics: Sequence[Mapping[str, float]]
) -> None:
    """A policy's folder; the metrics are what it has done."""
    judge = None if changes.get("objective") == "supervised" else MAIN_JUDGE
    judge = NAIVE_JUDGE if name == HACK_RUNS[NAIVE_JUDGE] else judge
    folder = judge_folder(context.config, judge) if judge else None
    config = context.config.policy_config(name, folder, 60.0, dict(changes))
    run = Path(config.run_folder)
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.to_json())
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    weights = {f"x.lora_{side}.default.weight": torch.ones(1, 1) for side in "AB"}
    write_adapter(run / ADAPTER, weights, {"step": int(metrics[-1]["step"])})


def finished_run(folder: Path, **changes: Any) -> Context:
    """A run that has measured everything, none of it usable but where a test says so."""
    context = context_for(quick(folder, **changes))
    config = context.config
    _write_policies(context)
    for name in (MAIN_JUDGE, NAIVE_JUDGE):
        cells = {"fill.structure": CELL, "remove.removal_quality": CELL}
        bins = [{"low": 0.5, "high": 0.55, "num_pairs": 16, "mean_score": 0.52, "accuracy": 0.75}]
        kinds = {"one_step": {"accuracy": 0.5, "questions": 10}}
        report = {"cells": cells, "calibration": bins}
        context.write(name, {"report": report, "kinds_of_pairs": kinds})
        target = judge_folder(config, name)
        target.mkdir(parents=True)
        (target / "report.json").write_text(json.dumps({"format": 1} | report))
    context.write("dimensions", {})
    none = [False] * len(TASKS) * config.test_scenes
    for name in tested_models(config):
        write_usable(context, name, none)
    context.write("usability", {name: by_task(none, none) for name in tested_models(config)})
    vote = {"good": 0, "same": 4, "bad": 0, "interval": None, "p": None}
    voters = {name: {"all": {"judge": vote, "oracle": vote}} for name in VOTE_MODELS}
    context.write("votes", voters)
    few = [False] * len(TASKS) * config.ablation_scenes
    record = {"usable": few, "tasks": by_task(few, few)}
    context.write("ablations", dict.fromkeys([BASE, *ablation_runs(config)], record))
    start = {"step": 0, "usable": 0.5, "won": 0, "lost": 0, "p": 1.0, "reward": 0.5}
    for name in HACK_RUNS.values():
        context.write(name, {"points": [start, start | {"step": 4}], "parting": None})
    context.write("photos", {"crops": 0})
    return context


def _write_policies(context: Context) -> None:
    config = context.config
    runs: dict[str, Mapping[str, Any]] = {name: {"algorithm": name} for name in (FIXED, DYNAMIC)}
    runs |= supervised_runs(config) | ablation_runs(config)
    runs |= dict.fromkeys(HACK_RUNS.values(), {"stop_on_drift": False} | config.hack)
    for name, changes in runs.items():
        steps = int(changes.get("steps", config.policy["steps"]))
        line = {"loss": 0.1} if name.startswith("supervised") else {"fill.structure": 0.5}
        write_policy(context, name, changes, [{"step": k + 1, **line} for k in range(steps)])
    conditions = [
        Condition(
            name=f"scene-{k}", task=Task.REMOVE, image_file_name="i.png", mask_file_name="m.png"
        )
        for k in range(20)
    ]
    image = torch.zeros(8, 8, 3)
    write_conditions(context.folder / "conditions", [(c, image, image[..., 0]) for c in conditions])
