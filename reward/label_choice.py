"""Whose labels count, and what becomes of labels that contradict each other.

Who labelled a pair stands in its ``judged_by``: ``human`` or ``human:<name>``, ``judge:<name>``,
``metric:<name>`` or ``oracle``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..fill.io.json_text import quote, shorten
from ..fill.json_config import setting
from .preference import Preference

ANYONE, PEOPLE, JUDGES = "", "people", "judges"
KEEP, MAJORITY, DROP = "keep", "majority", "drop"
_KINDS = {PEOPLE: ("human", "human:"), JUDGES: ("judge:", "judge:")}
_PREFIXES = ("human:", "judge:", "metric:")


def labels_by_setting() -> str:
    """Declare the config field that says whose labels count."""
    return setting(
        ANYONE,
        "Whose labels count: empty = anyone's; people; judges; or names with commas between, such "
        "as human:ana, judge:bundled.",
    )


def contradictions_setting() -> str:
    """Declare the config field for labels of which one says the opposite of another."""
    return setting(
        KEEP,
        "Where labels of one pair and dimension contradict each other: keep all, keep the "
        "majority's (a tie is dropped), or drop them.",
        options=(KEEP, MAJORITY, DROP),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenLabels:
    """The labels that count. Example: ``choose_labels(data.pairs(), "people", "majority").pairs``.

    Attributes:
        pairs: In the order of the data.
        num_others: Labels of others.
        num_contradictory: Compared images and dimensions with labels both ways.
        num_dropped: Labels left out for that.
    """

    pairs: list[Preference]
    num_others: int = 0
    num_contradictory: int = 0
    num_dropped: int = 0

    def note(self) -> str:
        """Return a sentence about what was left out or contradicts; empty if there is nothing."""
        parts: list[str] = []
        if self.num_others:
            parts.append(f"{self.num_others} labels by others are left out")
        if self.num_contradictory:
            dropped = f"{self.num_dropped} of them are dropped" if self.num_dropped else "all count"
            parts.append(
                f"in {self.num_contradictory} comparisons labels contradict each other: {dropped}"
            )
        return "; ".join(parts)


def choose_labels(
    pairs: Sequence[Preference], labels_by: str, contradictions: str = KEEP
) -> ChosenLabels:
    """Return the labels of some labellers, with contradictions settled.

    Args:
        pairs: All labels.
        labels_by: Empty, ``people``, ``judges``, or names with commas between; a plain name is a
            person's.
        contradictions: ``keep``, ``majority`` or ``drop``.

    Raises:
        ValueError: There are labels, but none by these; says who has labelled.
    """
    names = [name.strip() for name in labels_by.split(",") if name.strip()]
    labels = [pair for pair in pairs if not names or any(_is_by(pair, name) for name in names)]
    if pairs and not labels:
        counts = Counter(pair.judged_by or "unknown" for pair in pairs)
        there = ", ".join(f"{name} ({count})" for name, count in counts.most_common(5))
        raise ValueError(
            shorten(f"no label is by {quote(labels_by)}; there are labels by {there}", 290)
        )
    choice = ChosenLabels(pairs=labels, num_others=len(pairs) - len(labels))
    return _settled(choice, contradictions)


def _is_by(pair: Preference, name: str) -> bool:
    if name in _KINDS:
        whole, prefix = _KINDS[name]
        return pair.judged_by == whole or pair.judged_by.startswith(prefix)
    is_full = name.startswith(_PREFIXES) or name in ("human", "oracle")
    return pair.judged_by == (name if is_full else f"human:{name}")


def _settled(choice: ChosenLabels, contradictions: str) -> ChosenLabels:
    """Apply a rule to comparisons that were answered both ways."""
    winners: dict[object, Counter[str]] = defaultdict(Counter)
    for pair in choice.pairs:
        winners[_comparison(pair)][pair.winner_file_name] += 1
    both_ways = {key: counts for key, counts in winners.items() if len(counts) > 1}

    def counts_for(pair: Preference) -> bool:
        votes = both_ways.get(_comparison(pair))
        if votes is None or contradictions == KEEP:
            return True
        for_this = votes[pair.winner_file_name]
        return contradictions == MAJORITY and for_this > votes.total() - for_this

    pairs = [pair for pair in choice.pairs if counts_for(pair)]
    return replace(
        choice,
        pairs=pairs,
        num_contradictory=len(both_ways),
        num_dropped=len(choice.pairs) - len(pairs),
    )


def _comparison(pair: Preference) -> tuple[frozenset[str], object]:
    """What is compared in what, whoever compared it and whoever won."""
    names, dimension, _ = pair.comparison
    return names, dimension
