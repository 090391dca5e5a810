"""Sections 2 and 3: base, supervised baselines, alg. 1 and 2, best of N."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from ....training.policy.config import DYNAMIC, FIXED
from ...world.conditions import TASKS
from ..figures import curve_of
from ..measure import BASE, BEST, VOTED, read_images, test_scenes, tested_models
from ..policies import SUPERVISED
from ..stage import Context
from .cells import NONE, bounded, chance, changed, decided, number, plain, table
from .names import EACH, label
from .signs import Change, compare_tasks

PUBLISHED_USABILITY = {
    "fill": ("52.11", "69.04"),
    "extend, prompted": ("63.13", "64.72"),
    "extend, unprompted": ("73.71", "87.54"),
    "remove": ("73.98", "82.22"),
}
"""In %, of the best baseline and of the trained model (OneReward, table 2)."""
_CONTESTS = (
    *((own, baseline) for own in (FIXED, DYNAMIC) for baseline in (BASE, SUPERVISED, EACH, BEST)),
    (DYNAMIC, FIXED),
    (SUPERVISED, BASE),
    (BEST, BASE),
    (EACH, SUPERVISED),
)
ENDS = 25
"""Most steps that the reward at the start and at the end is averaged over."""


def usability_table(context: Context) -> str:
    """Return the share of usable images of every model."""
    found, config = context.read("usability"), context.config
    groups = list(found[BASE])
    rows = [["model", *groups, "won / lost", "p"]]
    for name in tested_models(config):
        shares = [bounded(one["share"], one["interval"]) for one in found[name].values()]
        whole = found[name]["all"]
        tested = [f"{whole['won']} / {whole['lost']}", chance(whole["p"])]
        rows.append([label(config, name), *shares, *(tested if name != BASE else [NONE, NONE])])
    return table(rows)


def published_table() -> str:
    """Return the paper's table 2."""
    head = ["task", "best baseline", "OneReward"]
    return table([head, *([task, *values] for task, values in PUBLISHED_USABILITY.items())])


def adversarial_pairs(context: Context) -> dict[tuple[str, str], dict[str, Change]]:
    """Compare models with their baselines on the same test scenes, per task and for all."""
    scenes = test_scenes(context.config)
    names = {name for pair in _CONTESTS for name in pair} - {EACH}
    usable = {name: read_images(context, name)["usable"] for name in sorted(names)}
    usable[EACH] = _by_own_model(context, scenes.conditions.task)
    rows = scenes.rows()
    return {
        (own, baseline): compare_tasks(rows, usable[baseline], usable[own])
        for own, baseline in _CONTESTS
    }


def adversarial_pairs_table(context: Context) -> str:
    """Return these comparisons."""
    found, config = adversarial_pairs(context), context.config
    tasks = [name for name in next(iter(found.values())) if name != "all"]
    rows = [["model", "against", "change (95 %)", "won / lost", "p", *tasks]]
    for (own, baseline), groups in found.items():
        names = (label(config, own), label(config, baseline))
        each = ["{} (p {})".format(*decided(groups[task])) for task in tasks]
        rows.append([*names, changed(groups["all"]), *decided(groups["all"]), *each])
    return table(rows)


def votes_table(context: Context) -> str:
    """Return good, same and bad beside the base."""
    found = context.read("votes")
    rows = [["model", "task", "by", "good", "same", "bad", "good of decided (95 %)", "p"]]
    for name in VOTED:
        for task, voters in found[name].items():
            for voter, v in voters.items():
                decisions = v["good"] + v["bad"]
                share = bounded(v["good"] / decisions, v["interval"]) if decisions else NONE
                counts = [str(v[kind]) for kind in ("good", "same", "bad")]
                rows.append(
                    [label(context.config, name), task, voter, *counts, share, chance(v["p"])]
                )
    return table(rows)


def rewards_table(context: Context) -> str:
    """Return the mean reward per task and dimension of the first and of the last steps."""
    ends = {name: _ends(curve_of(context, name)) for name in (FIXED, DYNAMIC)}
    labels = [label(context.config, name) for name in ends]
    rows = [
        ["task", "dimension", *(f"{one}, {end}" for one in labels for end in ("first", "last"))]
    ]
    for cell in sorted({cell for found in ends.values() for both in found for cell in both}):
        task, _, dimension = cell.partition(".")
        values = [number(both.get(cell)) for found in ends.values() for both in found]
        rows.append([task, plain(dimension), *values])
    return table(rows)


def _ends(curve: Sequence[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    steps = max(min(ENDS, len(curve) // 4), 1)
    return _mean_rewards(curve[:steps]), _mean_rewards(curve[-steps:])


def _mean_rewards(part: Sequence[dict[str, float]]) -> dict[str, float]:
    cells = {name for record in part for name in record if name.partition(".")[0] in TASKS}
    return {c: fmean(record[c] for record in part if c in record) for c in cells if "." in c}


def _by_own_model(context: Context, task: Tensor) -> Tensor:
    usable = torch.zeros(len(task), dtype=torch.bool)
    for number_of, name in enumerate(TASKS):
        own = task == number_of
        usable[own] = read_images(context, f"{SUPERVISED}-{name}")["usable"][own]
    return usable
