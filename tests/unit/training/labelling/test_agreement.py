"""Agreement against cases computed by hand, and by scipy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from onereward.training.labelling.agreement import (
    LabelAnswer,
    agreement,
    mean_doubt,
    num_for,
    verdicts,
    wilson_interval,
)

BOTH_YES, YES_NO, NO_YES, BOTH_NO = [(1, 1)] * 20, [(1, -1)] * 5, [(-1, 1)] * 10, [(-1, -1)] * 15


def test_kappa_of_a_table_computed_by_hand():
    """35 of 50 agree; by chance 25/50 * 30/50 + 25/50 * 20/50 = 1/2 would: (0.7 - 0.5) / 0.5."""
    result = agreement(BOTH_YES + YES_NO + NO_YES + BOTH_NO)
    assert result is not None
    assert (result.num, result.share) == (50, 0.7)
    assert result.kappa == pytest.approx(0.4)


def test_kappa_of_three_categories_computed_by_hand():
    """6 of 8 agree; they say 1, -1, 0 in 4, 3, 1 and in 3, 2, 3 of them: 21/64 by chance."""
    items = [(1, 1)] * 3 + [(1, 0)] + [(-1, -1)] * 2 + [(-1, 0)] + [(0, 0)]
    result = agreement(items)
    assert result is not None
    assert result.kappa == pytest.approx((48 - 21) / (64 - 21))


def test_kappa_is_not_defined_where_both_always_say_the_same():
    result = agreement([(1, 1)] * 5)
    assert result is not None
    assert result.kappa is None
    assert agreement([]) is None


@pytest.mark.parametrize(("wins", "num"), [(35, 50), (0, 4), (9, 9), (151, 200)])
def test_interval_is_wilson_s(wins: int, num: int):
    truth = binomtest(wins, num).proportion_ci(0.95, method="wilson")
    assert wilson_interval(wins / num, num) == pytest.approx((truth.low, truth.high), abs=1e-6)


def test_as_many_more_as_narrow_the_interval_to_five_percent():
    assert num_for(0.5) == 381  # z^2 (1/4 / 0.05^2 - 1), rounded up
    for share in (0.5, 0.7, 0.9):
        low, high = wilson_interval(share, num_for(share))
        assert high - low <= 0.1
        low, high = wilson_interval(share, num_for(share) - 1)
        assert high - low > 0.1
    result = agreement(BOTH_YES + YES_NO + NO_YES + BOTH_NO)
    assert result is not None
    assert result.num_more == num_for(0.7) - 50


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (LabelAnswer(0, 1), LabelAnswer(0, 1), (1, 1)),
        (LabelAnswer(1, 0), LabelAnswer(0, 1), (-1, 1)),
        (LabelAnswer(2, 0), LabelAnswer(2, 3), (-1, -1)),  # 2 is best of all, so better than 0
        (LabelAnswer(2, 0), LabelAnswer(1, 0), (-1, -1)),  # 0 is worst of all, so worse than 2
        (LabelAnswer(2, 0), LabelAnswer(1, 3), None),  # says nothing about 2 and 0
        (LabelAnswer(2, 0), LabelAnswer(), (-1, 0)),
        (LabelAnswer(), LabelAnswer(2, 0), (0, -1)),
        (LabelAnswer(), LabelAnswer(), (0, 0)),
    ],
)
def test_what_two_say_about_the_same_candidates(
    first: LabelAnswer, second: LabelAnswer, expected: tuple[int, int] | None
):
    assert verdicts(first, second, counts_ties=True) == expected
    has_tie = expected is not None and 0 in expected
    assert verdicts(first, second, counts_ties=False) == (None if has_tie else expected)


def test_doubt_is_most_where_both_are_as_likely():
    assert mean_doubt([0.5]) == 1
    assert mean_doubt([1.0, 0.0]) == 0
    assert mean_doubt([0.5, 0.75]) == pytest.approx(0.75)
