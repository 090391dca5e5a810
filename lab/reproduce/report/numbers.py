"""Everything that the run has measured, as JSON values: the numbers behind the report's tables.

Measuring the finished models again has to give the same numbers bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ....fill.task import Task
from ....training.evaluation.config import EvalConfig
from ....training.evaluation.report import Row
from ....training.evaluation.run import BASELINE, MODEL, RESULTS
from ....training.policy.config import DYNAMIC, FIXED
from ...base_model.photographs import PHOTOGRAPHS
from ...judge.judge_card import PUBLISHED
from ...oracle import DIMENSIONS
from ...world.conditions import TASKS
from ..figures import hacked_result
from ..judge_stages import MAIN_JUDGE, NAIVE_JUDGE, ONE_JUDGE, SEPARATE_JUDGES
from ..measurements import (
    BASE,
    BEST,
    VOTE_MODELS,
    read_images,
    sampled_base,
    test_scenes,
    tested_models,
)
from ..photos import PHOTOS
from ..policies import AS_CONFIGURED, HACK_RUNS, SUPERVISED, ablation_name, ablation_runs
from ..stage import Context
from .paired import ALPHA, compare, compare_shares, compare_tasks, rows_in_turn, share_numbers

Numbers = dict[str, Any]
SINGLE = f"{SUPERVISED}-each"
"""Not a model of its own: every scene's image is that of its task's supervised model."""
TOGETHER = "all four together"
"""Every scene's image by the policy that learned its task alone."""
MEASURES = ("seam", "tone", "texture")
_COMPARISONS = {
    FIXED: (BASE, SUPERVISED, SINGLE, BEST),
    DYNAMIC: (BASE, SUPERVISED, SINGLE, BEST, FIXED),
    SUPERVISED: (BASE,),
    BEST: (BASE,),
    SINGLE: (SUPERVISED,),
}
"""Model to its baselines."""


def measured_numbers(context: Context) -> Numbers:
    """Return all measurements by section of the report.

    Shares are 0..1 with their count and 95 % interval, ``{"share": 0.5, "count": 4, "interval":
    [0.15, 0.85]}``; changes between two models are those of ``paired.PairedChange``.
    """
    sections: dict[str, Callable[[Context], Any]] = {
        "judge": _judge,
        "judge_per_dimension": _judge_per_dimension,
        "usability": _usability,
        "comparisons": _comparisons,
        "votes": _votes,
        "ablations": _ablations,
        "single_task_policies": _single_task_policies,
        "hacking": _hacking,
        "photographs": _photographs,
    }
    return {name: section(context) for name, section in sections.items()}


def _judge(context: Context) -> Numbers:
    """Section 1: accuracy per cell, on difficult pairs, and by confidence."""
    # A row per pair of task and dimension.
    measured = {name: context.read(name) for name in (MAIN_JUDGE, NAIVE_JUDGE)}
    reports = {name: values["report"]["cells"] for name, values in measured.items()}
    cells = []
    for key, cell in reports[MAIN_JUDGE].items():
        task, _, dimension = key.partition(".")
        cells.append(
            {
                "task": task,
                "dimension": dimension,
                "pairs": cell["num_pairs"],
                "swap_consistency": cell["swap_consistency"],
                "published": PUBLISHED.get(task, {}).get(dimension),
                **{name: _cell_accuracy(report.get(key)) for name, report in reports.items()},
            }
        )
    # Difficult pairs, and the calibration.
    kinds = {}
    for kind in measured[MAIN_JUDGE]["kinds_of_pairs"]:
        counts = {name: values["kinds_of_pairs"].get(kind) for name, values in measured.items()}
        kinds[kind] = {
            name: share_numbers(count["accuracy"], count["questions"]) if count else None
            for name, count in counts.items()
        }
    bins = [
        {
            "low": row["low"],
            "high": row["high"],
            "mean_confidence": row["mean_score"],
            "accuracy": share_numbers(row["accuracy"], row["num_pairs"]),
        }
        for row in measured[MAIN_JUDGE]["report"]["calibration"]
    ]
    # All cells together, where both judges have some.
    total: Numbers = {name: _pool(list(report.values())) for name, report in reports.items()}
    has_pairs = all(total.values())
    total["outcome"] = compare_shares(total[MAIN_JUDGE], total[NAIVE_JUDGE]) if has_pairs else None
    return {"cells": cells, "kinds_of_pairs": kinds, "calibration": bins, "all": total}


def _cell_accuracy(cell: Mapping[str, float] | None) -> Numbers | None:
    if cell is None:
        return None
    interval = (cell["low"], cell["high"])
    return {"share": cell["accuracy"], "count": cell["num_pairs"], "interval": interval}


def _pool(cells: Sequence[Mapping[str, Any]]) -> Numbers | None:
    """Return the accuracy over the pairs of all cells; None: there are no pairs."""
    pairs = sum(cell["num_pairs"] for cell in cells)
    right = sum(cell["num_pairs"] * cell["accuracy"] for cell in cells)
    return share_numbers(right / pairs, pairs) if pairs else None


def _judge_per_dimension(context: Context) -> Numbers:
    """Section 4: one judge for all dimensions, and one per dimension."""
    measured = context.read("dimensions")
    kinds = (ONE_JUDGE, SEPARATE_JUDGES)
    rows: Numbers = {}
    for dimension in (name for name in DIMENSIONS if name in measured):
        record = measured[dimension]
        rows[dimension] = {
            kind: {**_accuracy(record, kind), "steps": record[kind]["steps"]} for kind in kinds
        }
    if rows:
        records = list(measured.values())
        total: Numbers = {}
        for kind in kinds:
            counts = [{"num_pairs": r["pairs"], "accuracy": r[kind]["accuracy"]} for r in records]
            total[kind] = _pool(counts)
        total[ONE_JUDGE]["steps"] = records[0][ONE_JUDGE]["steps"]
        total[SEPARATE_JUDGES]["steps"] = sum(r[SEPARATE_JUDGES]["steps"] for r in records)
        outcome = compare_shares(total[ONE_JUDGE], total[SEPARATE_JUDGES])
        rows["all"] = {**total, "outcome": outcome}
    return rows


def _accuracy(record: Mapping[str, Any], kind: str) -> Numbers:
    return share_numbers(record[kind]["accuracy"], record["pairs"]) or {}


def _usability(context: Context) -> Numbers:
    """Section 2: usable images of every model, per task, with the sign test against the base."""
    measured = context.read("usability")
    return {name: measured[name] for name in tested_models(context.config)}


def _comparisons(context: Context) -> Numbers:
    """Section 2: models and their baselines on the same test scenes, per task and for all."""
    scenes = test_scenes(context.config)
    models = {name for pair in _COMPARISONS.items() for name in (pair[0], *pair[1])} - {SINGLE}
    usable = {name: read_images(context, name)["usable"] for name in sorted(models)}
    usable[SINGLE] = _by_single_task_model(context, scenes.conditions.task)
    rows = scenes.rows()
    comparisons: Numbers = {}
    for model, baselines in _COMPARISONS.items():
        comparisons[model] = {}
        for baseline in baselines:
            changes = compare_tasks(rows, usable[baseline], usable[model])
            comparisons[model][baseline] = {t: change.numbers() for t, change in changes.items()}
    return comparisons


def _by_single_task_model(context: Context, task: Tensor) -> Tensor:
    """Return which scenes are usable, bool ``[B]``, if every task has its own supervised model."""
    usable = torch.zeros(len(task), dtype=torch.bool)
    for index, name in enumerate(TASKS):
        rows = task == index
        usable[rows] = read_images(context, f"{SUPERVISED}-{name}")["usable"][rows]
    return usable


def _votes(context: Context) -> Numbers:
    """Section 3: good, same and bad against the base, by the judge and by the oracle."""
    measured = context.read("votes")
    votes: Numbers = {}
    for name in VOTE_MODELS:
        votes[name] = {}
        for task, voters in measured[name].items():
            votes[name][task] = {who: _count_decided(vote) for who, vote in voters.items()}
    return votes


def _count_decided(vote: Mapping[str, Any]) -> Numbers:
    """Return a vote with the share of good among those that are not *same*."""
    count = vote["good"] + vote["bad"]
    if not count:
        return {**vote, "decided": None}
    share = {"share": vote["good"] / count, "count": count, "interval": vote["interval"]}
    return {**vote, "decided": share}


def _ablations(context: Context) -> Numbers:
    """Section 4: every setting that was varied, on the dev split; what is missing is left out."""
    config, measured = context.config, context.read("ablations")
    rows, runs = _ablation_rows(measured), ablation_runs(config)
    bases = {
        name: _mean_shares(rows, torch.tensor([record["usable"]]))
        for name, record in measured.items()
        if name.split(",")[0] == BASE
    }
    varied: Numbers = {}
    default = None
    for name in (AS_CONFIGURED, *config.ablations, *(_single_task_name(task) for task in Task)):
        usable = _ablation_usable(context, measured, name)
        if usable is None:
            continue
        base = sampled_base(config, runs[ablation_name(name, config.ablation_seeds[0])])
        # With another sampling, images differ from the default's by the sampling alone.
        reference = default if base == BASE else None
        varied[name] = {
            "shares": _mean_shares(rows, usable),
            "seeds": usable.double().mean(1).tolist(),
            "base": base,
            "against_base": compare(torch.tensor(measured[base]["usable"]), usable).numbers(),
            "against_default": None if reference is None else compare(reference, usable).numbers(),
        }
        default = usable if name == AS_CONFIGURED else default
    settings = [n for n in config.ablations if varied.get(n, {}).get("against_default")]
    return {"bases": bases, "varied": varied, "settings": settings}


def _ablation_rows(measured: Mapping[str, Any]) -> dict[str, Tensor]:
    tasks = measured[BASE]["tasks"].items()
    return rows_in_turn({name: task["count"] for name, task in tasks if name != "all"})


def _ablation_usable(context: Context, measured: Mapping[str, Any], name: str) -> Tensor | None:
    """Return which scenes are usable, bool ``[R, B]`` by seed; None: a seed is not measured."""
    stages = [ablation_name(name, seed) for seed in context.config.ablation_seeds]
    if not all(stage in measured for stage in stages):
        return None
    return torch.tensor([measured[stage]["usable"] for stage in stages])


def _mean_shares(rows: Mapping[str, Tensor], usable: Tensor) -> dict[str, float]:
    """Return the share of usable images per group, the mean over seeds; ``usable`` ``[R, B]``."""
    return {n: fmean(usable[:, group].double().mean(1).tolist()) for n, group in rows.items()}


def _single_task_name(task: Task) -> str:
    return f"only {task.value}"


def _single_task_policies(context: Context) -> Numbers:
    """Section 4: policies that learned one task against the one for all, each on its own task."""
    measured = context.read("ablations")
    rows = _ablation_rows(measured)
    default = _ablation_usable(context, measured, AS_CONFIGURED)
    if default is None:
        return {}
    changes, together = {}, default.clone()
    tasks = [name for name in rows if name != "all"]
    for task in tasks:
        usable = _ablation_usable(context, measured, _single_task_name(Task(task)))
        if usable is not None:
            group = rows[task]
            changes[task] = compare(default[:, group], usable[:, group]).numbers()
            together[:, group] = usable[:, group]
    if changes and len(changes) == len(tasks):
        changes[TOGETHER] = compare(default, together).numbers()
    return changes


def _hacking(context: Context) -> Numbers:
    """Section 5: reward and oracle over the steps of the runs that are meant to be hacked."""
    hacking: Numbers = {}
    for judge, name in HACK_RUNS.items():
        measured = context.read(name)
        _, step, has_parted = hacked_result(context, name)
        hacking[judge] = {
            "points": measured["points"],
            "parting": measured["parting"],
            "p_limit": ALPHA / max(len(measured["points"]) - 1, 1),
            "shown_step": step,
            "shown_where_they_part": has_parted,
        }
    return hacking


def _photographs(context: Context) -> Numbers:
    """Section 7: measures on photographs, which need no truth; no crops: none were given."""
    measured = context.read(PHOTOS)
    if not measured["crops"]:
        return {"crops": 0}
    sides = {name: numbers["sides"] for name, numbers in measured["models"].items()}
    changes = {
        name: _sound_changes(context, name, numbers["config"])
        for name, numbers in measured["models"].items()
    }
    tasks: Numbers = {}
    for task, models in sides[FIXED].items():
        # The base is the baseline of both, with the same images.
        tasks[task] = {BASE: _measures(models[BASELINE], None)}
        for name in (name for name in sides if task in sides[name]):
            tasks[task][name] = _measures(sides[name][task][MODEL], changes[name].get(task))
    photographs = {photo.file: photo for photo in PHOTOGRAPHS}
    files = [
        {
            "file": name,
            "package": photographs[name].package if name in photographs else "",
            "licence": photographs[name].licence if name in photographs else "",
        }
        for name in measured["files"]
    ]
    return {"crops": measured["crops"], "files": files, "tasks": tasks}


def _measures(side: Mapping[str, Any], change: Numbers | None) -> Numbers:
    """Return how many edits are sound, and the mean of every measure that is known."""
    sound = side.get("sound")
    return {
        "edits": side["edits"],
        "sound": sound and share_numbers(sound["share"], sound["count"]),
        "change": change,
        **{name: side.get(name) for name in MEASURES},
    }


def _sound_changes(context: Context, name: str, config: Mapping[str, Any]) -> Numbers:
    """Compare a model with the base, edit by edit, by whether the results are sound."""
    path = context.result(f"{PHOTOS}-{name}").with_suffix("") / RESULTS
    if not path.is_file():
        return {}
    limits = EvalConfig(**config)
    rows = [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    groups = {row.task: [r for r in rows if r.task == row.task] for row in rows} | {"all": rows}
    changes = {}
    for task, group in groups.items():
        if group:
            base, model = (_are_sound(group, side, limits) for side in (BASELINE, MODEL))
            changes[task] = compare(base, model).numbers()
    return changes


def _are_sound(rows: Sequence[Row], side: str, limits: EvalConfig) -> Tensor:
    """Return which results are sound, bool ``[B]``."""
    return torch.tensor([row.is_sound(side, limits) for row in rows])
