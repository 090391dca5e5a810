"""Label candidates: for each dimension the best and the worst, unless they hardly differ.

Source: OneReward, sec. 4.2; one candidate may win in one dimension and lose in another. Every
labeller gives a score of 0..1 per candidate and dimension, kept in ``labels.jsonl``; pairs follow
from scores and margin, so for another margin no image is scored again. A line of the file, with
P(candidate 0 is better than candidate 1) as a win (here broken into several)::

    {"condition": "fill-1-2", "made_by": "9f", "labeller": "metrics|...",
     "scores": {"consistency": [0.9, 0.4]}, "wins": [["consistency", 0, 1, 0.8]]}
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ...fill.host import Host
from ...fill.io.json_text import quote, read_records
from ...fill.io.writing import append_line, drop_torn_line
from ...fill.json_config import SHARE, JsonConfig, make_record, setting
from ...fill.task import Dimension, Task
from ...fill.wrapped_host import WrappedHost
from ...reward.judging import VIEWS
from ...reward.pairs_lock import pairs_lock
from ...reward.preference import CandidateGroup, Preference, PreferenceSet
from ..runs.distributed import Distributed
from .ranking import is_picked, make_pair

LABELLERS = ("judge", "metrics")
LABELS = "labels.jsonl"
Scores = Mapping[Dimension, Sequence[float]]
"""Per dimension one number per candidate, higher is better; NaN where there is none."""
Cell = tuple[Task, Dimension]
Key = tuple[str, str]
"""Identifies a group: its condition, and what made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig(JsonConfig):
    """Who labels, and what counts as a difference. The order of the fields is a promise.

    Example: ``LabelConfig(labeller="metrics", margin=0.1)``.
    """

    labeller: str = setting(
        LABELLERS[0],
        "judge = the connected judge; metrics = the seam at the mask's border (consistency) and "
        "words read by OCR (text alignment of task text).",
        options=LABELLERS,
    )
    margin: float = setting(
        0.2,
        "Least difference of best and worst, in scores of 0..1; below it they hardly differ and "
        "the dimension is dropped.",
        **SHARE,
    )
    view: str = setting(VIEWS[0], "What the judge is shown of the images.", options=VIEWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScores:
    """A labeller's scores of a group.

    Example: ``CandidateScores(scores={Dimension.STRUCTURE: [0.9, 0.4]})``.
    """

    scores: Scores
    wins: Mapping[tuple[Dimension, int, int], float] = field(default_factory=dict)
    """P(first candidate better than second), by their indices, where it is known."""


class Labeller(Protocol):
    """Scores the candidates of a group.

    Example: ``MetricLabeller().candidate_scores(group, data, host).scores``.
    """

    @property
    def identity(self) -> str:
        """What must not change for the scores of an earlier run to hold."""
        ...

    def judged_by(self, dimension: Dimension) -> str:
        """Return who judges a dimension, for the record."""
        ...

    def check(self, groups: Sequence[CandidateGroup], data: PreferenceSet) -> None:
        """Raise ValueError for groups that cannot be scored, before any work is done."""
        ...

    def candidate_scores(
        self, group: CandidateGroup, data: PreferenceSet, host: Host
    ) -> CandidateScores:
        """Score one group."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """In how many groups the candidates differ, by task and dimension.

    Example: ``label(data, MetricLabeller(), 0.2, host).text()``.
    """

    num_pairs: Mapping[Cell, int]
    num_groups: Mapping[Cell, int]
    """Those with scores; where the candidates hardly differ, no pair is made."""

    @property
    def dropped(self) -> float:
        """Share of (group, dimension) in which the candidates hardly differ, 0..1."""
        total = sum(self.num_groups.values())
        return 1 - sum(self.num_pairs.values()) / total if total else 0.0

    def text(self) -> str:
        """Return the report as lines."""
        pairs, total = sum(self.num_pairs.values()), sum(self.num_groups.values())
        lines = [f"{pairs} pairs; {self.dropped:.0%} of {total} dropped as hardly different"]
        for cell in sorted(self.num_groups):
            name = f"{cell[0].value}, {cell[1].value.replace('_', ' ')}"
            lines.append(f"{name}: {self.num_pairs.get(cell, 0)} of {self.num_groups[cell]}")
        return "\n".join(lines)


def label(
    data: PreferenceSet,
    labeller: Labeller,
    margin: float,
    host: Host,
    processes: Distributed | None = None,
) -> LabelReport:
    """Label all candidate groups; their pairs by the same labeller are replaced, others stay.

    Others are those of people, of other labellers, of images that are in no group, and those that
    Pick Best has saved. Scores of an earlier run are used again, so one that was cancelled goes on.
    Several processes share the groups; the first one writes.

    Raises:
        ValueError: There are no candidates, or they cannot be scored.
    """
    # Refuse what cannot be scored.
    processes = processes or Distributed()
    groups = data.groups()
    if not groups:
        raise ValueError(f"{data.folder} holds no candidates; generate some first")
    labeller.check(groups, data)
    # Score the groups that have no scores yet, one per process at a time.
    labels = _Labels(data.folder / LABELS, labeller.identity)
    processes.wait()
    missing = [group for group in groups if _key(group) not in labels.scored]
    for start in range(0, len(missing), processes.count):
        host.check_cancelled()
        batch = missing[start : start + processes.count][processes.rank :][:1]
        step = WrappedHost(host, share=(start, len(missing)))
        scored = [(_key(group), labeller.candidate_scores(group, data, step)) for group in batch]
        for results in processes.gather(scored):
            for key, candidate_scores in results:
                labels.add(key, candidate_scores, writes=processes.is_main)
    # Make the pairs of all scores.
    pairs, report = _pairs(groups, labels.scored, labeller, margin)
    if processes.is_main:
        with pairs_lock(data.folder):  # people may be labelling, too
            data.replace_pairs(_merge(data.pairs(), pairs, groups, labeller))
    processes.wait()
    return report


def label_group(
    group: CandidateGroup, scores: Scores, margin: float, judged_by: str
) -> list[Preference]:
    """Return a pair (best, worst) per dimension in which they differ by at least the margin.

    Args:
        group: The candidates.
        scores: Per dimension one number per candidate, higher is better; a dimension with a
            number that is not finite is left out.
        margin: Least difference between best and worst, in units of the scores.
        judged_by: Who gave the scores, for the record.

    Raises:
        ValueError: A dimension has not one score per candidate, or the margin is negative.
    """
    if margin < 0:
        raise ValueError(f"margin is {margin}, but 0 or more is expected")
    pairs = []
    for dimension, values in scores.items():
        if len(values) != len(group.file_names):
            raise ValueError(
                f"{dimension.value} has {len(values)} scores for {len(group.file_names)} candidates"
            )
        best, worst = _extremes(values)
        difference = values[best] - values[worst]
        if best == worst or not math.isfinite(sum(values)) or difference < margin:
            continue
        pairs.append(make_pair(group, dimension, (best, worst), judged_by))
    return pairs


def _pairs(
    groups: Sequence[CandidateGroup],
    scored: Mapping[Key, CandidateScores],
    labeller: Labeller,
    margin: float,
) -> tuple[list[Preference], LabelReport]:
    """Return a pair per group and dimension where the candidates differ, and the counts."""
    pairs: list[Preference] = []
    num_pairs: Counter[Cell] = Counter()
    num_groups: Counter[Cell] = Counter()
    for group in groups:
        candidate_scores = scored[_key(group)]
        for dimension, values in candidate_scores.scores.items():
            if not math.isfinite(sum(values)):
                continue
            num_groups[group.task, dimension] += 1
            by = labeller.judged_by(dimension)
            for pair in label_group(group, {dimension: values}, margin, by):
                num_pairs[group.task, dimension] += 1
                chance = candidate_scores.wins.get((dimension, *_extremes(values)), 1.0)
                # Who wins over all opponents may lose against the worst one; then nobody is sure.
                pairs.append(replace(pair, confidence=max(chance, 0.5)))
    return pairs, LabelReport(num_pairs=num_pairs, num_groups=num_groups)


def _merge(
    before: Sequence[Preference],
    pairs: Sequence[Preference],
    groups: Sequence[CandidateGroup],
    labeller: Labeller,
) -> list[Preference]:
    """Return old and new pairs, without the old ones that the new ones replace."""
    sources = {labeller.judged_by(dimension) for dimension in Dimension}
    labelled: set[str] = set()
    for group in groups:
        if not is_picked(group):
            labelled.update(group.file_names)
    stay = [p for p in before if p.judged_by not in sources or p.winner_file_name not in labelled]
    comparisons = {pair.comparison for pair in stay}
    return stay + [pair for pair in pairs if pair.comparison not in comparisons]


def _key(group: CandidateGroup) -> Key:
    return group.condition, group.made_by


def _extremes(values: Sequence[float]) -> tuple[int, int]:
    """Return the indices of the best and the worst."""
    indices = range(len(values))
    return max(indices, key=lambda i: values[i]), min(indices, key=lambda i: values[i])


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLine:
    """A line of the file. Example: the one at the top of this module."""

    condition: str
    labeller: str
    scores: Mapping[str, tuple[float | None, ...]]
    wins: tuple[tuple[Any, ...], ...] = ()
    """Dimension, first and second candidate, P(the first is better)."""
    made_by: str = ""

    def candidate_scores(self) -> CandidateScores:
        """Return the scores; ValueError if something is no dimension or no win."""
        scores = {
            Dimension(d): [math.nan if v is None else float(v) for v in numbers]
            for d, numbers in self.scores.items()
        }
        return CandidateScores(scores=scores, wins=dict(map(_parse_win, self.wins)))


def _parse_win(win: Sequence[Any]) -> tuple[tuple[Dimension, int, int], float]:
    types = [str, int, int, (int, float)]
    if len(win) != len(types) or not all(map(isinstance, win, types)):
        raise ValueError(f"a win is {quote(win)}, but dimension, two numbers, and P are expected")
    return (Dimension(win[0]), win[1], win[2]), float(win[3])


class _Labels:
    """The scores that one labeller has given, in a file that several share."""

    def __init__(self, path: Path, identity: str) -> None:
        """Read the file; ValueError if a line is damaged."""
        self.scored: dict[Key, CandidateScores] = {}
        self._path, self._identity = path, identity
        drop_torn_line(path)
        read_records(path, self._take)

    def _take(self, values: dict[str, Any]) -> None:
        line = make_record(LabelLine, values, ignores_unknown=True)
        if line.labeller == self._identity:
            self.scored[line.condition, line.made_by] = line.candidate_scores()

    def add(self, key: Key, candidate_scores: CandidateScores, *, writes: bool) -> None:
        """Take in scores, and append them to the file."""
        self.scored[key] = candidate_scores
        if not writes:
            return
        scores = {
            d.value: [v if math.isfinite(v) else None for v in values]
            for d, values in candidate_scores.scores.items()
        }
        wins = [[d.value, a, b, p] for (d, a, b), p in candidate_scores.wins.items()]
        record = {"condition": key[0], "made_by": key[1], "labeller": self._identity}
        append_line(self._path, json.dumps(record | {"scores": scores, "wins": wins}))
