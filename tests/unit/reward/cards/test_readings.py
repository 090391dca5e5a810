"""Readings against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from onereward.reward.cards.readings import (
    expected_digit,
    head_score,
    pair_log_odds,
    preference,
    read_choice,
    read_score,
    token_probability,
)
from onereward.reward.judge import JudgeError

LOGITS = torch.tensor([[math.log(w) for w in (1.0, 2.0, 3.0, 4.0)]])
"""Probabilities 0.1, 0.2, 0.3 and 0.4."""


def test_pair_is_between_two_words_whatever_the_others_have() -> None:
    assert pair_log_odds(LOGITS, [0], [3]).sigmoid().item() == pytest.approx(0.1 / 0.5)


def test_spellings_of_a_word_are_added_up() -> None:
    assert pair_log_odds(LOGITS, [0, 1], [3]).sigmoid().item() == pytest.approx(0.3 / 0.7)
    assert token_probability(LOGITS, [1, 2]).item() == pytest.approx(0.5)


def test_expected_digit_is_among_digits_only() -> None:
    # 2 with 2/9, 3 with 3/9, 4 with 4/9
    assert expected_digit(LOGITS, [1, 2, 3], 2).item() == pytest.approx((4 + 9 + 16) / 9)


def test_head_is_linear_relu_linear_and_its_first_output_the_score() -> None:
    first = (torch.tensor([[1.0, -1.0], [2.0, 0.0]]), torch.tensor([0.0, -1.0]))
    second = (torch.tensor([[3.0, 5.0], [9.0, 9.0]]), None)
    # [1, 2] -> relu([-1, 1]) -> 5; [2, 1] -> [1, 3] -> 3 + 15
    states = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert head_score(states, [first, second]).tolist() == [5.0, 18.0]


def test_scores_a_temperature_apart_are_preferred_as_bradley_and_terry_say() -> None:
    won = preference(torch.tensor([4.0]), torch.tensor([1.5]), 2.5)
    assert won.item() == pytest.approx(math.e / (1 + math.e))
    assert preference(torch.tensor([2.0]), torch.tensor([2.0]), 0.1).item() == 0.5


def test_the_last_score_counts_since_reasoning_comes_first() -> None:
    text = 'score: 1 would be too low.\n"score" : [4]'
    assert read_score(text, r'"?score"?\s*:\s*\[?\s*([1-5])', 1, 5) == 4.0


def test_a_choice_is_one_or_nothing() -> None:
    words = ("1",), ("2",)
    assert read_choice("Image 1 is better", r"Image (\d)", *words) == 1.0
    assert read_choice("Image 2 is better", r"Image (\d)", *words) == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty answer"),
        ("   \n", "empty answer"),
        ("The edit is nice but the reasoning never ends", "no score or verdict"),
        ("score: 7", "gave the score 7, but its card says 1 to 5"),
        ("score: N/A", "wrote 'N/A' in the place of a score"),
    ],
)
def test_answers_without_a_score_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message) as caught:
        read_score(text, r"score: (\S+)", 1, 5)
    assert len(str(caught.value)) <= 300


def test_a_word_that_the_card_does_not_know_is_no_choice() -> None:
    with pytest.raises(JudgeError, match="answered 'both', but its card knows '1' and '2'"):
        read_choice("Image both", r"Image (\w+)", ("1",), ("2",))
