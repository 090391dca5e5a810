"""Section 4: one thing at a time, on the dev split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ....fill.task import Task
from ..measure import BASE, sampled_base
from ..policies import AS_CONFIGURED, ablation_name, ablation_runs
from ..stage import Context
from .cells import NONE, changed, decided, percent, table
from .signs import Change, compare, rows_in_turn

TOGETHER = "all four together"
"""Every scene's image by the model that learned its task alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """One thing that was varied, over its seeds."""

    usable: Tensor
    """Bool ``[R, B]``."""
    base: str
    """The base's name that was sampled alike."""
    against_base: Change
    against_usual: Change | None
    """None: it is the usual one, or sampled otherwise, which by itself makes other images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All that was varied."""

    rows: Mapping[str, Tensor]
    """Scenes by task, bool ``[B]``."""
    bases: Mapping[str, Tensor]
    """The base as it was sampled, bool ``[B]``."""
    varied: Mapping[str, Varied]


def read_grid(context: Context) -> Grid:
    """Read the measurements; what is missing is left out."""
    config, found = context.config, context.read("ablations")
    counts = {name: one["count"] for name, one in found[BASE]["tasks"].items() if name != "all"}
    runs = ablation_runs(config)
    single = [_only(task) for task in Task]
    usual, varied = None, {}
    for name in (AS_CONFIGURED, *config.ablations, *single):
        stages = [ablation_name(name, seed) for seed in config.ablation_seeds]
        if not all(stage in found for stage in stages):
            continue
        base = sampled_base(config, runs[stages[0]])
        usable = torch.tensor([found[stage]["usable"] for stage in stages])
        varied[name] = Varied(
            usable=usable,
            base=base,
            against_base=compare(torch.tensor(found[base]["usable"]), usable),
            against_usual=None if usual is None or base != BASE else compare(usual, usable),
        )
        usual = usable if name == AS_CONFIGURED else usual
    bases = {name: one for name, one in found.items() if name.split(",")[0] == BASE}
    return Grid(
        rows=rows_in_turn(counts),
        bases={name: torch.tensor(one["usable"]) for name, one in bases.items()},
        varied=varied,
    )


def shares_table(context: Context) -> str:
    """Return the share of usable images per task, and of every seed."""
    grid, seeds = read_grid(context), context.config.ablation_seeds
    rows = [["varied", *grid.rows, *(f"seed {seed}" for seed in seeds)]]
    for name, usable in grid.bases.items():
        rows.append([name, *_means(grid, usable[None]), *[NONE] * len(seeds)])
    for name, one in grid.varied.items():
        each = [percent(share) for share in one.usable.double().mean(1).tolist()]
        rows.append([name, *_means(grid, one.usable), *each])
    return table(rows)


def tests_table(context: Context) -> str:
    """Return every variation against the base and against the usual settings."""
    rows = [
        [
            *("varied", "base", "change from it (95 %)", "won / lost", "p"),
            *(f"change from *{AS_CONFIGURED}* (95 %)", "won / lost", "p"),
        ]
    ]
    for name, one in read_grid(context).varied.items():
        usual = one.against_usual
        against = [changed(usual), *decided(usual)] if usual else [NONE] * 3
        own = [changed(one.against_base), *decided(one.against_base)]
        rows.append([name, one.base, *own, *against])
    return table(rows)


def single_tasks(grid: Grid) -> dict[str, Change]:
    """Compare the models for one task with the one for all, each on its own task."""
    varied = {t.value: grid.varied[_only(t)] for t in Task if _only(t) in grid.varied}
    if AS_CONFIGURED not in grid.varied:
        return {}
    usual = grid.varied[AS_CONFIGURED].usable
    own = {task: one for task, one in varied.items() if task in grid.rows}
    found = {
        task: compare(usual[:, grid.rows[task]], one.usable[:, grid.rows[task]])
        for task, one in own.items()
    }
    if own and len(own) == len(grid.rows) - 1:
        together = usual.clone()
        for task, one in own.items():
            together[:, grid.rows[task]] = one.usable[:, grid.rows[task]]
        found[TOGETHER] = compare(usual, together)
    return found


def single_table(context: Context) -> str:
    """Return these comparisons."""
    rows = [["task", "one for all", "its own model", "change (95 %)", "won / lost", "p"]]
    for task, change in single_tasks(read_grid(context)).items():
        shares = (percent(change.before), percent(change.after))
        rows.append([task, *shares, changed(change), *decided(change)])
    return table(rows)


def _only(task: Task) -> str:
    return f"only {task.value}"


def _means(grid: Grid, usable: Tensor) -> list[str]:
    shares: list[Any] = [usable[:, own].double().mean(1).tolist() for own in grid.rows.values()]
    return [percent(fmean(each)) for each in shares]
