"""Rows of the report's tables, from its numbers alone; the first row is the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....fill.task import Task
from ....training.policy.config import DYNAMIC, FIXED
from ..judge_stages import MAIN_JUDGE, NAIVE_JUDGE, ONE_JUDGE, SEPARATE_JUDGES
from ..measurements import BASE, BEST
from ..policies import HACK_RUNS, SUPERVISED
from .numbers import MEASURES, SINGLE, Numbers

Rows = list[list[str]]
NONE = "-"
LABELS = {
    BASE: "base",
    FIXED: "alg. 1",
    DYNAMIC: "alg. 2",
    SUPERVISED: "supervised, one for all",
    SINGLE: "supervised, every task by its own model",
    BEST: "best of {n} by the judge",
    MAIN_JUDGE: "the judge",
    NAIVE_JUDGE: "the naive judge",
    **{f"{SUPERVISED}-{task.value}": f"supervised, {task.value} only" for task in Task},
    HACK_RUNS[MAIN_JUDGE]: "against the judge (section 5)",
    HACK_RUNS[NAIVE_JUDGE]: "against the naive judge (section 5)",
}
BUDGET_HEAD = [
    *("model", "learns from", "steps", "of", "saved step", "edits", "rate", "kl_weight"),
    *("core-minutes", "note"),
]


def report_tables(numbers: Numbers) -> dict[str, Rows]:
    """Return all tables by name."""
    measured = numbers["measured"]
    return {
        "models_budget": list(_models_budget(numbers)),
        "others_budget": list(_others_budget(numbers)),
        "early_budget": list(_early_budget(numbers["budget"]["before_policies"])),
        "judge": list(_judge(measured["judge"]["cells"])),
        "kinds_of_pairs": list(_kinds_of_pairs(measured["judge"]["kinds_of_pairs"])),
        "calibration": list(_calibration(measured["judge"]["calibration"])),
        "usability": list(_usability(numbers)),
        "comparisons": list(_comparisons(numbers)),
        "votes": list(_votes(numbers)),
        "rewards": list(_rewards(numbers["rewards"])),
        "judge_per_dimension": list(_judge_per_dimension(measured["judge_per_dimension"])),
        "ablation_shares": list(_ablation_shares(numbers)),
        "ablation_tests": list(_ablation_tests(measured["ablations"])),
        "single_task_policies": list(_single_task_policies(measured["single_task_policies"])),
        **{f"hacking_{j}": list(_hacking(run)) for j, run in measured["hacking"].items()},
        "photographs": list(_photographs(numbers)),
    }


def label(numbers: Numbers, name: str) -> str:
    """Return what a model is called in the report."""
    return LABELS[name].format(n=numbers["plan"]["config"]["best_of"])


def plain(name: str) -> str:
    """Return a name without underscores."""
    return name.replace("_", " ")


def decimal(value: float | None, form: str = ".3f") -> str:
    """Return a number, or a dash where it is missing."""
    return NONE if value is None else f"{value:{form}}"


def percent(share: float | None) -> str:
    """Return a share in %."""
    return NONE if share is None else f"{100 * share:.1f}"


def interval(share: Mapping[str, Any] | None) -> str:
    """Return a share in % with its interval: ``75.0 (30.1-95.4)``."""
    if share is None:
        return NONE
    low, high = share["interval"]
    return f"{percent(share['share'])} ({percent(low)}-{percent(high)})"


def p_value(p: float | None) -> str:
    """Return a p with four digits."""
    if p is None:
        return NONE
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def points(change: Mapping[str, Any]) -> str:
    """Return a change in points of %, with its interval: ``+1.1 (+0.2 to +2.0)``."""
    text = f"{100 * change['change']:+.1f}"
    if change["interval"] is None:
        return text
    low, high = change["interval"]
    return f"{text} ({100 * low:+.1f} to {100 * high:+.1f})"


def sign_test_cells(change: Mapping[str, Any] | None) -> list[str]:
    """Return ``won / lost`` and p."""
    if change is None:
        return [NONE, NONE]
    return [f"{change['won']} / {change['lost']}", p_value(change["p"])]


def monitors(point: Mapping[str, Any]) -> str:
    """Return what the drift monitors reported at a step of a run."""
    if "complaint" not in point:
        return "not evaluated"
    return point["complaint"] or "no complaint"


def _judge(cells: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    yield ["task", "dimension", "pairs", "judge (95 %)", "swaps", "naive (95 %)", "published"]
    for cell in cells:
        main, naive = interval(cell[MAIN_JUDGE]), interval(cell[NAIVE_JUDGE])
        yield [
            *(cell["task"], plain(cell["dimension"]), str(cell["pairs"])),
            *(main, percent(cell["swap_consistency"]), naive),
            decimal(cell["published"], ".2f"),
        ]


def _kinds_of_pairs(kinds: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["pairs", "questions", "judge (95 %)", "naive (95 %)"]
    for name, kind in kinds.items():
        count = str(kind[MAIN_JUDGE]["count"])
        yield [plain(name), count, interval(kind[MAIN_JUDGE]), interval(kind[NAIVE_JUDGE])]


def _calibration(bins: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    yield ["confidence", "pairs", "mean confidence", "right (95 %)"]
    for row in bins:
        span = f"{percent(row['low'])}-{percent(row['high'])}"
        accuracy = row["accuracy"]
        yield [span, str(accuracy["count"]), percent(row["mean_confidence"]), interval(accuracy)]


def _judge_per_dimension(dimensions: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["dimension", "pairs", "one judge (95 %)", "steps", "own judge (95 %)", "steps"]
    for name, row in dimensions.items():
        one_judge, separate = row[ONE_JUDGE], row[SEPARATE_JUDGES]
        yield [
            *(plain(name), str(one_judge["count"])),
            *(interval(one_judge), str(one_judge["steps"])),
            *(interval(separate), str(separate["steps"])),
        ]


def _usability(numbers: Numbers) -> Iterator[list[str]]:
    usability = numbers["measured"]["usability"]
    yield ["model", *usability[BASE], "won / lost", "p"]
    for name, tasks in usability.items():
        test = sign_test_cells(tasks["all"] if name != BASE else None)
        yield [label(numbers, name), *map(interval, tasks.values()), *test]


def _comparisons(numbers: Numbers) -> Iterator[list[str]]:
    comparisons = numbers["measured"]["comparisons"]
    tasks = [task for task in comparisons[FIXED][BASE] if task != "all"]
    yield ["model", "against", "change (95 %)", "won / lost", "p", *tasks]
    for model, baselines in comparisons.items():
        for baseline, changes in baselines.items():
            names = [label(numbers, model), label(numbers, baseline)]
            tests = ["{} (p {})".format(*sign_test_cells(changes[task])) for task in tasks]
            total = changes["all"]
            yield [*names, points(total), *sign_test_cells(total), *tests]


def _votes(numbers: Numbers) -> Iterator[list[str]]:
    yield ["model", "task", "by", "good", "same", "bad", "good of decided (95 %)", "p"]
    for name, tasks in numbers["measured"]["votes"].items():
        for task, voters in tasks.items():
            for voter, vote in voters.items():
                counts = [str(vote[kind]) for kind in ("good", "same", "bad")]
                share = [interval(vote["decided"]), p_value(vote["p"])]
                yield [label(numbers, name), task, voter, *counts, *share]


def _rewards(rewards: Mapping[str, Any]) -> Iterator[list[str]]:
    yield [
        *("task", "dimension", "alg. 1, first", "alg. 1, last"),
        *("alg. 2, first", "alg. 2, last"),
    ]
    for cell, runs in rewards.items():
        task, _, dimension = cell.partition(".")
        ends = [runs[name][end] for name in (FIXED, DYNAMIC) for end in ("first", "last")]
        yield [task, plain(dimension), *map(decimal, ends)]


def _ablation_shares(numbers: Numbers) -> Iterator[list[str]]:
    ablations, seeds = numbers["measured"]["ablations"], numbers["plan"]["config"]["ablation_seeds"]
    tasks = ablations["bases"][BASE]
    yield ["varied", *tasks, *(f"seed {seed}" for seed in seeds)]
    for name, shares in ablations["bases"].items():
        yield [name, *map(percent, shares.values()), *[NONE] * len(seeds)]
    for name, row in ablations["varied"].items():
        yield [name, *map(percent, row["shares"].values()), *map(percent, row["seeds"])]


def _ablation_tests(ablations: Numbers) -> Iterator[list[str]]:
    yield [
        *("varied", "base", "change from it (95 %)", "won / lost", "p"),
        *("change from *as configured* (95 %)", "won / lost", "p"),
    ]
    for name, row in ablations["varied"].items():
        base, default = row["against_base"], row["against_default"]
        cells = [name, row["base"], points(base), *sign_test_cells(base)]
        yield [*cells, points(default) if default else NONE, *sign_test_cells(default)]


def _single_task_policies(changes: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["task", "one for all", "its own model", "change (95 %)", "won / lost", "p"]
    for task, change in changes.items():
        shares = [percent(change["before"]), percent(change["after"])]
        yield [task, *shares, points(change), *sign_test_cells(change)]


def _hacking(run: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["step", "reward", "evaluation", "usable", "won / lost", "p", "monitors"]
    for point in run["points"]:
        rewards = [decimal(point.get("reward")), decimal(point.get("evaluation"))]
        cells = [percent(point["usable"]), *sign_test_cells(point)]
        yield [str(point["step"]), *rewards, *cells, monitors(point) if point["step"] else NONE]


def _photographs(numbers: Numbers) -> Iterator[list[str]]:
    yield ["task", "model", "edits", "sound (95 %)", "won / lost", "p", *MEASURES]
    for task, models in numbers["measured"]["photographs"].get("tasks", {}).items():
        for name, row in models.items():
            measures = [decimal(row[measure]) for measure in MEASURES]
            sound = [str(row["edits"]), interval(row["sound"]), *sign_test_cells(row["change"])]
            yield [task, label(numbers, name), *sound, *measures]


def _models_budget(numbers: Numbers) -> Iterator[list[str]]:
    yield BUDGET_HEAD
    yield [label(numbers, BASE), *[NONE] * 8, "not trained"]
    budget, config = numbers["budget"], numbers["plan"]["config"]
    for name, spent in budget["models"].items():
        yield _run_budget(label(numbers, name), spent)
    images = config["best_of"]
    note = (
        f"no training; for each of the {config['test_scenes']} scenes per task {images} images "
        f"and {images - 1} comparisons by the judge, and again for every later edit"
    )
    minutes = decimal(budget["best_of_minutes"], ".1f")
    yield [label(numbers, BEST), *[NONE] * 7, minutes, note]


def _others_budget(numbers: Numbers) -> Iterator[list[str]]:
    yield BUDGET_HEAD
    for name, spent in numbers["budget"]["others"].items():
        yield _run_budget(label(numbers, name) if name in LABELS else name, spent)


def _early_budget(minutes: Mapping[str, float | None]) -> Iterator[list[str]]:
    yield ["part", "core-minutes"]
    for name, value in minutes.items():
        yield [name, decimal(value, ".1f")]


def _run_budget(name: str, spent: Mapping[str, Any]) -> list[str]:
    notes = [f"{spent['seeds']} seeds together"] if spent["seeds"] > 1 else []
    notes += [
        f"stopped early: {reason or 'no reason recorded'}" for reason in spent["stop_reasons"]
    ]
    teacher = str(spent["learns_from"])
    return [
        *(name, LABELS.get(teacher, teacher)),
        *(_per_seed(spent["steps"]), str(spent["planned_steps"]), _per_seed(spent["saved_steps"])),
        *(str(spent["edits"]), f"{spent['learning_rate']:g}", f"{spent['kl_weight']:g}"),
        *(decimal(spent["core_minutes"], ".1f"), "; ".join(notes) or NONE),
    ]


def _per_seed(values: Sequence[int | None]) -> str:
    """Return one value where all are equal, else all of them."""
    texts = [str(NONE if value is None else value) for value in values]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)
