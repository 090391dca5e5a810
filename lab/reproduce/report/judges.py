"""Section 1, and the judges per dimension of section 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...judge.bundle import PUBLISHED
from ...oracle import DIMENSIONS
from ..judges import BUNDLED, NAIVE
from ..stage import Context
from .cells import NONE, bounded, counted, percent, plain, table

ONE, OWN = "one judge", "own judge"


def judge_table(context: Context) -> str:
    """Return the form of table 1, with the naive judge and the published numbers."""
    main, naive = (context.read(name)["report"]["cells"] for name in (BUNDLED, NAIVE))
    rows = [["task", "dimension", "pairs", "judge (95 %)", "swaps", "naive (95 %)", "published"]]
    for cell, found in main.items():
        task, _, dimension = cell.partition(".")
        published = PUBLISHED.get(task, {}).get(dimension)
        other = naive.get(cell)
        rows.append(
            [
                *(task, plain(dimension), str(found["num_pairs"]), _accuracy(found)),
                *(percent(found["swap_consistency"]), _accuracy(other) if other else NONE),
                f"{published:.2f}" if published else NONE,
            ]
        )
    return table(rows)


def kinds_table(context: Context) -> str:
    """Return how often both judges are right on pairs that are made to be difficult."""
    main, naive = (context.read(name)["kinds_of_pairs"] for name in (BUNDLED, NAIVE))
    rows = [["pairs", "questions", "judge (95 %)", "naive (95 %)"]]
    for kind, found in main.items():
        both = (found, naive.get(kind, {"accuracy": None, "questions": 0}))
        shares = [counted(one["accuracy"], one["questions"]) for one in both]
        rows.append([plain(kind), str(found["questions"]), *shares])
    return table(rows)


def calibration_table(context: Context) -> str:
    """Return how often the judge is right by how sure it is."""
    rows = [["confidence", "pairs", "mean confidence", "right (95 %)"]]
    for one in context.read(BUNDLED)["report"]["calibration"]:
        span = f"{percent(one['low'])}-{percent(one['high'])}"
        count = one["num_pairs"]
        shares = (percent(one["mean_score"]), counted(one["accuracy"], count))
        rows.append([span, str(count), *shares])
    return table(rows)


def dimensions_table(context: Context) -> str:
    """Return one judge for all dimensions beside one per dimension."""
    found = context.read("dimensions")
    rows = [["dimension", "pairs", "one judge (95 %)", "steps", "own judge (95 %)", "steps"]]
    for name in (one for one in DIMENSIONS if one in found):
        pairs, both = found[name]["pairs"], [found[name][kind] for kind in (ONE, OWN)]
        values = [v for b in both for v in (counted(b["accuracy"], pairs), str(b["steps"]))]
        rows.append([plain(name), str(pairs), *values])
    if found:
        pairs, one, own = pooled_dimensions(found)
        steps = [
            next(iter(found.values()))[ONE]["steps"],
            sum(f[OWN]["steps"] for f in found.values()),
        ]
        shares = [counted(one, pairs), str(steps[0]), counted(own, pairs), str(steps[1])]
        rows.append(["all", str(pairs), *shares])
    return table(rows)


def pooled_dimensions(found: Mapping[str, Any]) -> tuple[int, float, float]:
    """Return the pairs of all dimensions, and how often the one judge and the own ones are right.

    There has to be a dimension.
    """
    pairs = sum(one["pairs"] for one in found.values())
    right = [
        sum(one["pairs"] * one[kind]["accuracy"] for one in found.values()) for kind in (ONE, OWN)
    ]
    return pairs, right[0] / pairs, right[1] / pairs


def pooled_judge(cells: Mapping[str, Any]) -> tuple[int, float]:
    """Return the pairs of all cells, and how often the judge is right on them; at least one."""
    pairs = sum(one["num_pairs"] for one in cells.values())
    return pairs, sum(one["num_pairs"] * one["accuracy"] for one in cells.values()) / pairs


def _accuracy(found: Mapping[str, float]) -> str:
    return bounded(found["accuracy"], (found["low"], found["high"]))
