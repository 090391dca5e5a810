from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.reward.judge import Judgement, PairQuestion
from onereward.reward.query import Query, queries_for
from onereward.reward.score import METHODS, RankingConfig, judge_pair, pick_best

QUERIES = queries_for(Task.FILL, "a red circle")


class QualityJudge:
    """Prefers the larger number, less surely the nearer the two are, and always the first a bit."""

    bias = 0.1

    def __init__(self) -> None:
        self.asked = 0

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        self.asked += 1
        gaps = torch.tensor([float(q.first - q.second) for q in questions])
        return torch.sigmoid(gaps) * (1 - self.bias) + self.bias


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num", [1, 2, 3, 5, 8])
def test_the_best_of_a_transitive_judge_wins(method: str, num: int) -> None:
    for seed in range(5):
        values = [float(v) for v in range(num)]
        random.Random(seed).shuffle(values)
        ranking = pick_best(QualityJudge(), values, QUERIES, RankingConfig(method=method))
        assert values[ranking.order[0]] == max(values)
        assert sorted(ranking.order) == list(range(num))
        if method != "knockout":
            assert [values[i] for i in ranking.order] == sorted(values, reverse=True)
            assert len(ranking.comparisons) == num * (num - 1) // 2
        else:
            assert len(ranking.comparisons) == num - 1


def test_win_rate_is_the_share_of_siblings_that_are_beaten() -> None:
    """Where the mean probability puts one great win first, the win rate counts how often."""
    p = {(0, 1): 0.55, (0, 2): 0.55, (0, 3): 0.55, (1, 2): 1.0, (1, 3): 1.0, (2, 3): 0.5}

    class Table:
        def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
            pairs = [(q.first, q.second) for q in questions]
            return torch.tensor([p[a, b] if a < b else 1 - p[b, a] for a, b in pairs])

    rates = pick_best(Table(), range(4), QUERIES, RankingConfig(method="win_rate"))
    assert rates.scores == pytest.approx((1, 2 / 3, 1 / 6, 1 / 6))
    assert rates.order == (0, 1, 2, 3)
    means = pick_best(Table(), range(4), QUERIES, RankingConfig(method="round_robin"))
    assert means.order[0] == 1
    assert means.comparisons == rates.comparisons


@pytest.mark.parametrize("num", [3, 5, 6, 7, 9, 11])
def test_nobody_sits_out_twice_in_a_knock_out(num: int) -> None:
    """Else the last of nine would need to win once, where others need to four times."""
    for seed in range(20):
        values = [float(v) for v in range(num)]
        random.Random(seed).shuffle(values)
        comparisons = pick_best(QualityJudge(), values, QUERIES, RankingConfig()).comparisons
        alive, start = set(range(num)), 0
        byes: list[int] = []
        while len(alive) > 1:
            played = comparisons[start : start + len(alive) // 2]
            start += len(played)
            met = {
                index for comparison in played for index in (comparison.first, comparison.second)
            }
            byes += alive - met
            alive -= {
                min(comparison.first, comparison.second, key=values.__getitem__)
                for comparison in played
            }
        assert len(byes) == len(set(byes))


def test_weights_decide_who_wins() -> None:
    """One candidate is the better built, the other the better looking."""

    class Two:
        def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
            favours = {"structure": 0.9, "aesthetics": 0.2}
            answers: list[float] = []
            for first, second, query, _ in questions:
                dimension = query.question().partition("Dimension: ")[2].partition(":")[0]
                first_wins = favours.get(dimension, 0.5)
                answers.append(first_wins if first < second else 1 - first_wins)
            return torch.tensor(answers)

    for method in METHODS:
        for dimension, best in ((Dimension.STRUCTURE, 0), (Dimension.AESTHETICS, 1)):
            ranking_config = RankingConfig(
                method=method, weights={dimension: 2.0, Dimension.CONSISTENCY: 1.0}
            )
            assert pick_best(Two(), [0, 1], QUERIES, ranking_config).order[0] == best


def test_position_bias_cancels() -> None:
    judge = QualityJudge()
    forth = judge_pair(judge, 1.0, 0.0, QUERIES)
    back = judge_pair(judge, 0.0, 1.0, QUERIES)
    equal = judge_pair(judge, 2.0, 2.0, QUERIES)
    for dimension in forth.probabilities:
        assert abs(forth.probabilities[dimension] + back.probabilities[dimension] - 1) < 1e-6
        assert abs(equal.probabilities[dimension] - 0.5) < 1e-6
    once = judge_pair(judge, 2.0, 2.0, QUERIES, swap=False)
    assert abs(once.mean() - 0.55) < 1e-6


def test_judge_that_runs_elsewhere_gets_both_orders_at_once() -> None:
    class FarJudge(QualityJudge):
        components = ()

    near, far = QualityJudge(), FarJudge()
    for swap in (True, False):
        expected = judge_pair(near, 1.0, 0.5, QUERIES, swap)
        assert judge_pair(far, 1.0, 0.5, QUERIES, swap).probabilities == expected.probabilities
    assert (near.asked, far.asked) == (3, 2)


def test_every_comparison_polls_the_host() -> None:
    ticks: list[None] = []
    values = [1.0, 2.0, 3.0, 4.0]
    pick_best(QualityJudge(), values, QUERIES, RankingConfig(), lambda: ticks.append(None))
    assert len(ticks) == 3


def test_weights_decide() -> None:
    judgement = Judgement(probabilities={Dimension.STRUCTURE: 0.9, Dimension.AESTHETICS: 0.3})
    assert judgement.mean() == pytest.approx(0.6)
    assert judgement.mean({Dimension.STRUCTURE: 3.0, Dimension.AESTHETICS: 1.0}) == pytest.approx(
        0.75
    )
    assert judgement.mean({Dimension.AESTHETICS: 2.0}) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="weights are 0"):
        judgement.mean({Dimension.CONSISTENCY: 1.0})


@pytest.mark.parametrize(
    ("encoded", "queries", "method", "message"),
    [
        ([], QUERIES, "knockout", "no candidates"),
        ([1.0], (), "knockout", "no dimension"),
        ([1.0], QUERIES, "best", "choose one of"),
    ],
)
def test_bad_contests_are_refused(
    encoded: list[float], queries: Sequence[Query], method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pick_best(QualityJudge(), encoded, queries, RankingConfig(method=method))
