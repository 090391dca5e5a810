"""How far two labellers agree: raw share, Cohen's kappa, and how sure that is.

An item is one question (a group of candidates and a dimension) that both have answered, read as a
verdict on two candidates: those that the first of the two has named best and worst. The second one
has said which of them is better if either is its best or its worst. "Hardly any difference" counts
between people alone: a judge's labels hold none.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...fill.task import Dimension

Z = 1.959964
"""Of a two-sided interval of 95 %."""
HALF_WIDTH = 0.05
"""What an interval should be narrowed to: +-5 %."""


@dataclass(frozen=True, slots=True)
class LabelAnswer:
    """What somebody says about a group in one dimension; indices of candidates.

    Without a best one they hardly differ; without a worst one the answer is half given.
    Example: ``LabelAnswer(best=1, worst=0)``.
    """

    best: int | None = None
    worst: int | None = None
    confidence: float = 1.0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be asked."""
        return (self.best is None) == (self.worst is None)

    @property
    def ends(self) -> tuple[int, int] | None:
        """The best and the worst; None if there are not both."""
        if self.best is None or self.worst is None:
            return None
        return self.best, self.worst

    def verdict(self, a: int, b: int) -> int | None:
        """Return 1 if a is better than b, -1 for the reverse, 0 for neither, None if unsaid."""
        if self.ends is None:
            return 0 if self.is_complete else None
        if a == self.best or b == self.worst:
            return 1
        return -1 if b == self.best or a == self.worst else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two agree. Example: ``agreement([(1, 1), (-1, 1)]).share``."""

    num: int
    """Items."""
    share: float
    """Of items on which both say the same, 0..1."""
    kappa: float | None
    """Cohen's kappa, at most 1; 0 = as chance has it; None where both always say the same thing."""
    low: float
    """Least share in Wilson's interval of 95 %."""
    high: float
    num_more: int
    """Further items after which the interval is +-5 % or narrower, if the share stays."""


class AgreementTable:
    """What two people or judges say about the same questions, kept up question by question.

    Example: ``table.put(cell, (1, -1)); table.totals()``.
    """

    def __init__(self) -> None:
        self._items: dict[tuple[str, Dimension], tuple[int, int]] = {}
        self._counts: defaultdict[Dimension, Counter[tuple[int, int]]] = defaultdict(Counter)

    def put(self, cell: tuple[str, Dimension], item: tuple[int, int] | None) -> None:
        """Set what they say about a question; None: not both of them, or nothing comparable."""
        if before := self._items.pop(cell, None):
            self._counts[cell[1]][before] -= 1
        if item:
            self._items[cell] = item
            self._counts[cell[1]][item] += 1

    def totals(self) -> tuple[Agreement | None, dict[Dimension, Agreement]]:
        """Return the agreement in all, and in every dimension with items."""
        rows = {d: row for d in Dimension if (row := agreement(self._counts[d]))}
        return agreement(sum(self._counts.values(), Counter())), rows


def verdicts(
    first: LabelAnswer, second: LabelAnswer, *, counts_ties: bool
) -> tuple[int, int] | None:
    """Return what both say about the same two candidates, or None if one of them does not.

    Example: ``verdicts(LabelAnswer(0, 1), LabelAnswer(0, 1), counts_ties=True) == (1, 1)``.
    """
    ends = first.ends or second.ends
    if ends is None:  # both say that they hardly differ
        return (0, 0) if counts_ties else None
    a, b = sorted(ends)
    one_says, other_says = first.verdict(a, b), second.verdict(a, b)
    if one_says is None or other_says is None:
        return None
    if not counts_ties and 0 in (one_says, other_says):
        return None
    return one_says, other_says


def agreement(items: Iterable[tuple[int, int]] | Mapping[tuple[int, int], int]) -> Agreement | None:
    """Measure how far two agree; None without items.

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960: (o - e) / (1 - e) with
    the share o on which they agree and the share e expected of two who answer at random, each with
    his own frequencies.

    Args:
        items: What the first and the second one says, in any categories; or a Counter of it.
    """
    counts = Counter(items)
    num = sum(counts.values())
    if not num:
        return None
    num_same = sum(count for (a, b), count in counts.items() if a == b)
    firsts: Counter[int] = Counter()
    seconds: Counter[int] = Counter()
    for (a, b), count in counts.items():
        firsts[a] += count
        seconds[b] += count
    by_chance = sum(firsts[c] * seconds[c] for c in firsts) / num**2
    share = num_same / num
    low, high = wilson_interval(share, num)
    return Agreement(
        num=num,
        share=share,
        kappa=None if by_chance == 1 else (share - by_chance) / (1 - by_chance),
        low=low,
        high=high,
        num_more=max(0, num_for(share) - num),
    )


def wilson_interval(share: float, num: int) -> tuple[float, float]:
    """Return the 95 % interval of a share. Source: Wilson, JASA 22 (1927).

    Args:
        share: Of successes, 0..1.
        num: Trials, at least 1.
    """
    middle = (share + Z**2 / (2 * num)) / (1 + Z**2 / num)
    half = _half_width(share, num)
    return max(0.0, middle - half), min(1.0, middle + half)


def num_for(share: float, half_width: float = HALF_WIDTH) -> int:
    """Return the fewest trials whose Wilson interval of this share is +-``half_width`` at most."""
    low, high = 1, math.ceil(Z**2 / (4 * half_width**2)) + 1
    while low < high:
        middle = (low + high) // 2
        if _half_width(share, middle) <= half_width:
            high = middle
        else:
            low = middle + 1
    return low


def _half_width(share: float, num: int) -> float:
    spread = share * (1 - share) / num + Z**2 / (4 * num**2)
    return Z * math.sqrt(spread) / (1 + Z**2 / num)


def doubt(chance: float) -> float:
    """Return a judge's doubt, 0..1, of P(the best is better than the worst): most at one half."""
    return 1 - abs(2 * chance - 1)


def mean_doubt(chances: Sequence[float]) -> float:
    """Return the doubt of a group: the mean over its dimensions."""
    return sum(map(doubt, chances)) / len(chances)
