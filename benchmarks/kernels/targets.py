"""What was to be reached on a GPU, beside what a run measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

GB = 1e9
LARGE = 25e6
"""Bytes from which on a kernel has to reach the targets; a smaller one is reported only."""
SIDE = 1024
SLACK, FLOOR = 1.5, 1e-3
"""Error beside that of eager, and what is added for bfloat16."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One number to be reached.

    Example: ``Target(name="peak GB", measured=20, required=21, goal=21, is_limit=True).outcome``.
    """

    name: str
    measured: float
    """The worst of the rows that it is about."""
    required: float
    goal: float
    is_limit: bool = False
    """Whether less is better."""

    @property
    def outcome(self) -> str:
        """Return ``goal``, ``required`` or ``missed``: the best that was reached."""
        sign = -1 if self.is_limit else 1
        if sign * self.measured >= sign * self.goal:
            return "goal"
        return "required" if sign * self.measured >= sign * self.required else "missed"


def check(report: Row) -> Iterator[Target]:
    """Yield every target that a report, of a GPU and at full size, has rows for."""
    yield from _operations(report)
    for row in report.get("images", ()):
        if row["side"] == SIDE:
            us = {name: t["median"] for name, t in row["us"].items()}
            for name, required, goal in (("eager", 1.5, 1.7), ("compiled", 0.97, 1.05)):
                yield Target(
                    name=f"image, {name} / ours", measured=us[name] / us["ours"],
                    required=required, goal=goal,
                )  # fmt: skip
    for row in report.get("gradient_steps", ()):
        if row["side"] == SIDE:
            ratio = row["us"]["eager"]["median"] / row["us"]["ours"]["median"]
            name = f"gradient step, {row['mode']}, eager / ours"
            yield Target(name=name, measured=ratio, required=1.5, goal=1.7)
    peaks = [r["peak"]["allocated"] / GB for r in report.get("memory", ()) if r["side"] == SIDE]
    if peaks:
        yield Target(
            name="peak GB of an image", measured=max(peaks), required=21.0, goal=21.0,
            is_limit=True,
        )  # fmt: skip


def _operations(report: Row) -> Iterator[Target]:
    rows = [r for r in report.get("operations", ()) if not r["is_product"]]
    copy = sum(report["copy_gb_s"]) / len(report["copy_gb_s"])
    if large := [r for r in rows if r["bytes"] >= LARGE]:
        percent = min(100 * r["bytes"] / r["us"]["ours"]["median"] / 1e3 / copy for r in large)
        yield Target(name="large kernels, % of copy", measured=percent, required=75, goal=85)
        ratio = max(r["us"]["ours"]["median"] / r["us"]["compiled"]["median"] for r in large)
        yield Target(
            name="large kernels, ours / compiled", measured=ratio, required=1.05, goal=1.0,
            is_limit=True,
        )  # fmt: skip
    errors = [r["error"] for r in report.get("operations", ())]
    if errors:
        worst = max(e["ours"] / (SLACK * e["eager"] + FLOOR) for e in errors)
        yield Target(
            name="error / allowed error", measured=worst, required=1.0, goal=1.0, is_limit=True
        )
