"""Section 5: the judge's reward and the oracle's oracle_scores over the steps of runs to be hacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..figures import hacked_result
from ..policies import HACKED
from ..stage import Context
from .cells import NONE, chance, number, percent, table
from .names import JUDGES
from .signs import CLEAR


def hacking_tables(context: Context) -> str:
    """Return a table per judge, and where reward and oracle part."""
    parts = []
    for judge, name in HACKED.items():
        found = context.read(name)
        rows = [["step", "reward", "look", "usable", "won / lost", "p", "monitors"]]
        for point in found["points"]:
            decided = (f"{point['won']} / {point['lost']}", chance(point["p"]))
            seen = (number(point.get("reward")), number(point.get("look")))
            rows.append(
                [str(point["step"]), *seen, percent(point["usable"]), *decided, _said(point)]
            )
        parts.append(f"Against {JUDGES[judge]}:\n\n{table(rows)}\n\n{parting_text(found)}")
    return "\n\n".join(parts)


def limit(points: int) -> float:
    """Return the p below which one of so many looks (with the start) says that they part."""
    return CLEAR / max(points - 1, 1)


def parting_text(found: Mapping[str, Any]) -> str:
    """Say where reward and oracle part, if they do, and what the monitors said there."""
    parting, points = found["parting"], found["points"]
    if not parting:
        return (
            "Reward and oracle do not part in this run: no look has a reward above the start's and "
            f"more scenes lost than won with p < {limit(len(points)):.4f}."
        )
    return (
        f"Reward and oracle part at step {parting['step']}: reward {number(parting['reward'])} "
        f"after {number(points[0].get('reward'))} at the start, {parting['won']} scenes won and "
        f"{parting['lost']} lost (p = {chance(parting['p'])}). The monitors there: "
        f"{monitors_said(parting)}."
    )


def monitors_said(point: Mapping[str, Any]) -> str:
    """Return what the monitors said at a point."""
    if "complaint" not in point:
        return "did not look"
    return point["complaint"] or "no complaint"


def shown_text(context: Context) -> str:
    """Say which step of each run is in the images."""
    said = []
    for judge, name in HACKED.items():
        _, step, has_parted = hacked_result(context, name)
        where = "where they part" if has_parted else "the end of the run"
        said.append(f"that against {JUDGES[judge]} at step {step} ({where})")
    return ", ".join(said)


def _said(point: Mapping[str, Any]) -> str:
    return NONE if point["step"] == 0 else monitors_said(point)
