"""Whose labels count, and labels that contradict each other, counted by hand."""

from __future__ import annotations

import pytest

from onereward.fill.task import Dimension, Task
from onereward.reward.label_choice import choose_labels
from onereward.reward.preference import Preference


def label(winner: str, loser: str, judged_by: str, **changes: Dimension) -> Preference:
    return Preference(
        winner_file_name=winner,
        loser_file_name=loser,
        task=Task.FILL,
        dimension=changes.get("dimension", Dimension.STRUCTURE),
        condition="kite",
        judged_by=judged_by,
    )


LABELS = [
    label("a", "b", "human:ana"),
    label("b", "a", "human:ben"),
    label("a", "b", "human"),
    label("b", "a", "judge:bundled"),
    label("c", "d", "judge:bundled"),
    label("b", "a", "metric:seam", dimension=Dimension.CONSISTENCY),
]


@pytest.mark.parametrize(
    ("labels_by", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("people", [0, 1, 2]),
        ("judges", [3, 4]),
        ("ana", [0]),
        ("human:ben, judge:bundled", [1, 3, 4]),
        ("human", [2]),
        ("metric:seam", [5]),
    ],
)
def test_labels_of_those_who_are_named_count(labels_by: str, expected: list[int]) -> None:
    choice = choose_labels(LABELS, labels_by)
    assert choice.pairs == [LABELS[index] for index in expected]
    assert choice.num_others == len(LABELS) - len(expected)


@pytest.mark.parametrize(
    ("labels_by", "contradictions", "expected", "num_contradictory"),
    [
        ("", "keep", [0, 1, 2, 3, 4, 5], 1),
        ("", "majority", [4, 5], 1),  # a over b twice, b over a twice
        ("people", "majority", [0, 2], 1),
        ("people", "drop", [], 1),
        ("judges", "drop", [3, 4], 0),
    ],
)
def test_contradictions_are_settled_as_chosen(
    labels_by: str, contradictions: str, expected: list[int], num_contradictory: int
) -> None:
    choice = choose_labels(LABELS, labels_by, contradictions)
    assert choice.pairs == [LABELS[index] for index in expected]
    assert choice.num_contradictory == num_contradictory
    assert ("contradict" in choice.note()) == bool(num_contradictory)


def test_labels_of_nobody_are_refused_and_those_there_named() -> None:
    with pytest.raises(ValueError, match=r"no label is by 'cleo'; .* judge:bundled \(2\)"):
        choose_labels(LABELS, "cleo")
    assert choose_labels([], "cleo").pairs == []
