"""How numbers are written in the report's tables."""

from __future__ import annotations

from collections.abc import Sequence

from ....reward.report import wilson_interval
from ....training.charts.tables import markdown_table
from .signs import Change

NONE = "-"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, its head first; a sentence where there is nothing below it."""
    return markdown_table(rows) if len(rows) > 1 else "There is nothing to show here."


def plain(name: str) -> str:
    """Return a name as it is read."""
    return name.replace("_", " ")


def percent(share: float | None) -> str:
    """Return a share in %."""
    return NONE if share is None else f"{100 * share:.1f}"


def bounded(share: float, interval: Sequence[float]) -> str:
    """Return a share in % with its interval."""
    low, high = interval
    return f"{percent(share)} ({percent(low)}-{percent(high)})"


def counted(share: float | None, num: int) -> str:
    """Return a share in % with its Wilson interval."""
    if share is None or num < 1:
        return NONE
    return bounded(share, wilson_interval(share, num))


def chance(p: float | None) -> str:
    """Return a p."""
    if p is None:
        return NONE
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def changed(change: Change) -> str:
    """Return a difference in points of %, with its interval where there is one."""
    said = f"{100 * change.difference:+.1f}"
    if change.interval is None:
        return said
    low, high = change.interval
    return f"{said} ({100 * low:+.1f} to {100 * high:+.1f})"


def decided(change: Change) -> list[str]:
    """Return won / lost and p."""
    return [f"{change.won} / {change.lost}", chance(change.p)]


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number that may be missing."""
    return NONE if value is None else f"{value:{form}}"
