from __future__ import annotations

import math
import random

import pytest
import torch

from onereward.training.objectives import (
    dpo_loss,
    negative_aware_loss,
    optimality,
    preference_loss,
    reward_loss,
)


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


def test_dpo_loss_equals_the_equation_in_plain_floats() -> None:
    rng, beta = random.Random(1), 3.0
    errors, references = ([[rng.random(), rng.random()] for _ in range(5)] for _ in range(2))
    expected: list[float] = []
    for (winner, loser), (winner_before, loser_before) in zip(errors, references, strict=True):
        inside = -beta / 2 * ((winner - winner_before) - (loser - loser_before))
        expected.append(-math.log(1 / (1 + math.exp(-inside))))
    policy = torch.tensor(errors, dtype=torch.float64, requires_grad=True)
    losses = dpo_loss(policy, torch.tensor(references, dtype=torch.float64), beta)
    assert losses.tolist() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), policy)
    assert bool((gradient[:, 0] > 0).all()), "a smaller error on the winner is better"
    assert torch.equal(gradient[:, 0], -gradient[:, 1])


def test_optimality_is_a_half_for_the_average_and_clipped() -> None:
    rewards = torch.tensor([[0.2, 0.4, 0.9], [0.5, 0.5, 0.5]], dtype=torch.float64)
    r = optimality(rewards, 0.4)
    assert r[0].tolist() == pytest.approx([0.5 + 0.5 * -0.75, 0.5 + 0.5 * -0.25, 1.0])
    assert r[1].tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("beta", [0.3, 1.0])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_negative_aware_loss_equals_the_paper_written_out(beta: float, is_weighted: bool) -> None:
    """By predictions of x0 from the noisy image, value by value, in plain floats."""
    rng, tokens, channels = random.Random(2), 3, 2
    sigma, r = 0.6, 0.8

    def table() -> list[list[float]]:
        return [[rng.gauss(0, 1) for _ in range(channels)] for _ in range(tokens)]

    velocity, old, image, noise = (table() for _ in range(4))
    weights = [rng.random() for _ in range(tokens)] if is_weighted else [1.0] * tokens

    def error(mix: tuple[float, float]) -> float:
        squares, sizes = 0.0, 0.0
        for t in range(tokens):
            for c in range(channels):
                noisy = (1 - sigma) * image[t][c] + sigma * noise[t][c]
                v = mix[0] * old[t][c] + mix[1] * velocity[t][c]
                difference = noisy - sigma * v - image[t][c]
                squares += weights[t] * difference**2
                sizes += weights[t] * abs(difference)
        return squares / sizes  # the means' common divisor is gone

    expected = (r * error((1 - beta, beta)) + (1 - r) * error((1 + beta, -beta))) / beta

    def tensor(values: list[list[float]]) -> torch.Tensor:
        return torch.tensor([values], dtype=torch.float64)

    loss = negative_aware_loss(
        (tensor(velocity), tensor(old)),
        tensor(noise) - tensor(image),
        torch.tensor([sigma], dtype=torch.float64),
        torch.tensor([r], dtype=torch.float64),
        beta,
        torch.tensor([weights], dtype=torch.float64) if is_weighted else None,
    )
    assert loss.tolist() == pytest.approx([expected], abs=1e-12)


def test_an_average_image_teaches_nothing_and_good_and_bad_ones_the_opposite() -> None:
    generator = torch.Generator().manual_seed(0)
    old, target = torch.randn(2, 1, 4, 3, generator=generator, dtype=torch.float64)
    gradients: list[torch.Tensor] = []
    for r in (0.5, 1.0, 0.0):
        velocity = old.clone().requires_grad_(True)
        loss = negative_aware_loss(
            (velocity, old), target, torch.tensor([0.5]), torch.tensor([r]), 1.0
        )
        gradients += torch.autograd.grad(loss.sum(), velocity)
    assert gradients[0].abs().max() < 1e-12
    torch.testing.assert_close(gradients[1], -gradients[2])
    assert bool(((gradients[1] * (target - old)) <= 0).all()), "towards the good image"
