"""A run that does harm stops and says so."""

from __future__ import annotations

import random

import pytest

from onereward.training.runs.loop import FIRST_LINES, LAST_LINES, divergence


def test_a_loss_that_explodes_is_named_with_both_values():
    sentence = divergence([0.7] * FIRST_LINES + [49.0] * LAST_LINES)
    assert "from 0.7 to 49" in sentence
    assert "learning_rate" in sentence


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [0.7] * FIRST_LINES,
        [0.7, 0.6, 0.65, 0.5, 0.55, 0.4, 0.45, 0.3, 0.35],
        [0.7] * 6 + [90.0] + [0.7],  # one bad batch
        [0.0] * 8 + [0.3] * 5,  # a loss that begins at 0
        [-0.2] * 8 + [0.4] * 5,
    ],
    ids=["none", "short", "falling", "outlier", "from 0", "from below 0"],
)
def test_usual_losses_stop_nothing(losses: list[float]):
    assert divergence(losses) == ""


def test_noise_stops_nothing():
    draw = random.Random(0)
    assert all(
        divergence([draw.lognormvariate(-1.0, 1.0) for _ in range(200)]) == "" for _ in range(200)
    )
