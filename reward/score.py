"""Judging pairs and choosing the best of many; every image is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..fill.task import Dimension
from .judge import Judgement, PairQuestion, PairScorer
from .query import Query

KNOCKOUT, ROUND_ROBIN, WIN_RATE = METHODS = ("knockout", "round_robin", "win_rate")
TIE = 1e-6
"""Nearer to one half nobody wins: the probabilities of both orders are float32."""
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingConfig:
    """How candidates are ranked. Example: ``RankingConfig(method='round_robin')``."""

    method: str = METHODS[0]
    """``knockout``: N - 1 comparisons, exact about the winner only as far as the judge is
    transitive; ``round_robin``: all N (N - 1) / 2, scored by the mean P(better than an opponent);
    ``win_rate``: the same, scored by the share of opponents that it beats, a tie counts half."""
    weights: Mapping[Dimension, float] | None = None
    """Weight per dimension; None: equal."""

    def __post_init__(self) -> None:
        """Refuse an unknown method."""
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; choose one of: {', '.join(METHODS)}")

    def num_comparisons(self, num: int) -> int:
        """Return how many pairs are judged among ``num`` candidates."""
        return num - 1 if self.method == KNOCKOUT else num * (num - 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One judged pair, by indices in the batch. Example: ``comparison.judgement.mean()``."""

    first: int
    second: int
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The outcome of a ranking. Example: ``best = candidates[ranking.order[0]]``."""

    order: tuple[int, ...]
    """Indices in the batch, best first."""
    scores: tuple[float, ...]
    """Mean P(better than its opponents), or its win rate, of every candidate, in the order of the
    batch."""
    comparisons: tuple[Comparison, ...]


def judge_pair(
    judge: PairScorer,
    first: Any,
    second: Any,
    queries: Sequence[Query],
    swap: bool = True,
    source: Any = None,
) -> Judgement:
    """Return the probability per dimension that the first image is the better one.

    Args:
        judge: The judge.
        first: An image, encoded by the judge.
        second: The other one.
        queries: Which dimensions; one each.
        swap: Ask in both orders and return ``(P(Yes|a,b) + 1 - P(Yes|b,a)) / 2``, which cancels a
            preference for a position. A score; the training reward asks once (OneReward, eq. 3).
        source: The image before the edit, encoded, for a judge that needs it.
    """
    forth = [PairQuestion(first, second, q, source) for q in queries]
    swapped = [PairQuestion(second, first, q, source) for q in queries] if swap else []
    # A judge that runs elsewhere takes no memory here, so it gets both orders at once.
    is_elsewhere = not getattr(judge, "components", True)
    with torch.no_grad():
        if is_elsewhere:
            p = judge.probabilities(forth + swapped)
            p, back = p[: len(forth)], p[len(forth) :]
        else:
            p = judge.probabilities(forth)
            back = judge.probabilities(swapped) if swap else p
        if swap:
            p = (p + 1 - back) / 2
    return Judgement(probabilities={q.dimension: float(v) for q, v in zip(queries, p, strict=True)})


def pick_best(
    judge: PairScorer,
    encoded: Sequence[Any],
    queries: Sequence[Query],
    ranking_config: RankingConfig,
    on_comparison: Tick | None = None,
    source: Any = None,
) -> Ranking:
    """Rank candidates of the same condition.

    Args:
        judge: The judge.
        encoded: The candidates, encoded by the judge, at least one.
        queries: Which dimensions to judge.
        ranking_config: The rules.
        on_comparison: Called before every comparison (progress and cancel).
        source: The image before the edit, encoded, for a judge that needs it.

    Raises:
        ValueError: No candidates, no queries, or weights that are all 0.
    """
    if not encoded:
        raise ValueError("there are no candidates to choose from; connect at least one image")
    if not queries:
        raise ValueError("there is no dimension to judge; choose at least one")
    table = dict(ranking_config.weights) if ranking_config.weights is not None else None

    def compare(a: int, b: int) -> Comparison:
        if on_comparison is not None:
            on_comparison()
        judgement = judge_pair(judge, encoded[a], encoded[b], queries, source=source)
        judgement.mean(table)  # refuses weights that are all 0 before hours of work, not after
        return Comparison(first=a, second=b, judgement=judgement)

    # Knockout: the order is that of the rounds; every pair: that of the scores.
    if ranking_config.method == KNOCKOUT:
        comparisons, order = _knock_out(len(encoded), compare, table)
        return Ranking(
            order=order,
            scores=_mean_scores(len(encoded), comparisons, table),
            comparisons=tuple(comparisons),
        )
    comparisons = [compare(a, b) for a in range(len(encoded)) for b in range(a + 1, len(encoded))]
    means = _mean_scores(len(encoded), comparisons, table)
    scores = means
    if ranking_config.method == WIN_RATE:
        scores = _mean_scores(len(encoded), comparisons, table, _win)
    # Who wins as often stands higher by winning more surely.
    order = tuple(sorted(range(len(encoded)), key=lambda i: (-scores[i], -means[i])))
    return Ranking(order=order, scores=scores, comparisons=tuple(comparisons))


def _knock_out(
    num: int,
    compare: Callable[[int, int], Comparison],
    weights: dict[Dimension, float] | None,
) -> tuple[list[Comparison], tuple[int, ...]]:
    """Play rounds of pairs; who loses later, or by less, stands higher.

    Who sits a round out for want of an opponent comes first in the next, and so never does twice
    while others have not.
    """
    comparisons: list[Comparison] = []
    lost: dict[int, tuple[int, float]] = {}
    alive, round_index = list(range(num)), 0
    while len(alive) > 1:
        round_index += 1
        winners = [alive[-1]] if len(alive) % 2 else []
        for a, b in zip(alive[0::2], alive[1::2], strict=False):
            comparison = compare(a, b)
            comparisons.append(comparison)
            p = comparison.judgement.mean(weights)
            winner, loser = (a, b) if p >= 0.5 else (b, a)
            winners.append(winner)
            lost[loser] = (round_index, min(p, 1 - p))
        alive = winners
    losers = sorted(lost, key=lambda i: lost[i], reverse=True)
    return comparisons, (*alive, *losers)


def _win(p: float) -> float:
    return 0.5 if abs(p - 0.5) < TIE else float(p > 0.5)


def _mean_scores(
    num: int,
    comparisons: Sequence[Comparison],
    weights: dict[Dimension, float] | None,
    worth: Callable[[float], float] = float,
) -> tuple[float, ...]:
    results: list[list[float]] = [[] for _ in range(num)]
    for comparison in comparisons:
        p = worth(comparison.judgement.mean(weights))
        results[comparison.first].append(p)
        results[comparison.second].append(1 - p)
    return tuple(sum(r) / len(r) if r else 0.5 for r in results)
