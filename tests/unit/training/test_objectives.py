from __future__ import annotations

import math
import random

import pytest
import torch

from onereward.training.objectives import preference_loss, reward_loss


def test_preference_loss_equals_eq_3_written_out() -> None:
    """Probabilities from logits over a vocabulary, in plain Python floats."""
    rng = random.Random(0)
    vocabulary, yes, no, batch = 7, 2, 5, 4
    forth = [[rng.gauss(0, 2) for _ in range(vocabulary)] for _ in range(batch)]
    back = [[rng.gauss(0, 2) for _ in range(vocabulary)] for _ in range(batch)]

    def probability(row: list[float], token: int) -> float:
        return math.exp(row[token]) / sum(math.exp(v) for v in row)

    expected = (
        -0.5
        * sum(
            math.log(probability(f, yes)) + math.log(probability(b, no))
            for f, b in zip(forth, back, strict=True)
        )
        / batch
    )
    logits = torch.tensor([forth, back], dtype=torch.float64, requires_grad=True)
    logs = logits.log_softmax(-1)
    loss = preference_loss(logs[0, :, yes], logs[1, :, no])
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    for n in range(batch):
        for token in range(vocabulary):
            target = 0.5 / batch * (probability(forth[n], token) - (token == yes))
            assert gradient[0, n, token].item() == pytest.approx(target, abs=1e-12)


def test_reward_loss_is_the_capped_hinge() -> None:
    p = torch.tensor([0.95, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    loss = reward_loss(p, 0.9)
    assert loss.item() == pytest.approx((0 + 0.5 + 0) / 3)
    (gradient,) = torch.autograd.grad(loss, p)
    assert gradient.tolist() == pytest.approx([0.0, -1 / 3, 0.0])


@pytest.mark.parametrize("cap", [0.0, -0.1, 1.1])
def test_a_cap_outside_its_range_is_refused(cap: float) -> None:
    with pytest.raises(ValueError, match="lambda is"):
        reward_loss(torch.tensor([0.5]), cap)
