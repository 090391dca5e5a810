"""One step of alg. 1 and alg. 2 against an independent float64 implementation of the equations."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onereward.fill.sampling.guidance import Conditioning
from onereward.training.objectives import reward_loss
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.loop import PolicyTrainer
from onereward.training.policy.rewards import RewardOutput
from onereward.training.policy.samples import Batch
from onereward.training.policy.weights import Policy
from onereward.training.runs.distributed import Distributed
from support.recording_host import RecordingHost

STEPS, BATCH, TOKENS, CHANNELS, DIMENSIONS = 5, 4, 3, 2, 3
CAP, KL_WEIGHT, DECAY = 0.7, 0.3, 0.8
SIGMAS = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64) ** 0.7


class ToyField(nn.Module):
    """A velocity field of 10 parameters."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        draw = {"dtype": torch.float64, "generator": generator}
        self.matrix = nn.Parameter(torch.randn(CHANNELS, CHANNELS, **draw))
        self.bias = nn.Parameter(torch.randn(TOKENS, CHANNELS, **draw))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x @ self.matrix) + sigma * self.bias


def toy_answers(x0: Tensor, reference: Tensor) -> Tensor:
    """P("Yes") per dimension of one edit: a different weighting of the difference each."""
    weights = torch.arange(1, DIMENSIONS + 1, dtype=torch.float64)
    return torch.sigmoid(weights * (x0 - 0.5 * reference).square().mean() - 1)


class ToyReward:
    needs_reference = True

    def judge(self, batch: Batch, x0: Tensor, reference: Tensor) -> RewardOutput:
        leaf = x0.detach().requires_grad_(True)
        answers = [toy_answers(a, b) for a, b in zip(leaf, reference, strict=True)]
        losses = torch.stack([reward_loss(p, CAP) for p in answers])
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        scores = tuple({"fill.structure": float(p.detach().mean())} for p in answers)
        return RewardOutput(gradient=gradient, losses=losses.detach(), scores=scores)


class ToySource:
    """Draws the same kind of batches as the real one, in two micro-batches."""

    settings = SimpleNamespace(steps=STEPS)

    def draw(self, step: int, rank: int = 0, count: int = 1) -> tuple[list[Batch], int]:
        generator = torch.Generator().manual_seed(step)
        stop = int(torch.randint(1, STEPS, (), generator=generator))
        shape = (2, BATCH, TOKENS, CHANNELS)
        noise, reference_noise = torch.randn(shape, dtype=torch.float64, generator=generator)
        return [
            self._batch(noise[r], reference_noise[r]) for r in (slice(0, 3), slice(3, BATCH))
        ], stop

    def _batch(self, noise: Tensor, reference_noise: Tensor) -> Batch:
        nothing: Any = Conditioning.__new__(Conditioning)
        return Batch(
            samples=(),
            jobs=(),
            conditioning=nothing,
            noise=noise,
            reference_noise=reference_noise,
            sigmas=SIGMAS,
            size=(1, TOKENS),
            generators=(),
        )


class ToyTrainer(PolicyTrainer):
    def model(self, batch: Batch, sigmas: Tensor | None = None) -> Any:
        return self.policy.module

    def policy_resident(self, batches: Any) -> AbstractContextManager[None]:
        return nullcontext()


def make_trainer(tmp_path: Path, algorithm: str, **changes: Any) -> ToyTrainer:
    values: dict[str, Any] = {
        "run_folder": str(tmp_path),
        "model": {"folder": "toy"},
        "dataset_folder": "toy",
        "judges": ({"folder": "toy"},),
        "algorithm": algorithm,
        "mode": "full",
        "batch_size": BATCH,
        "reward_cap": CAP,
        "kl_weight": KL_WEIGHT,
        "ema_decay": DECAY,
        "learning_rate": 0.05,
        "max_grad_norm": 1e6,
        "gradient_checkpointing": "off",
    }
    config = PolicyTrainConfig(**values | changes)
    component = SimpleNamespace(module=ToyField(), dtype=torch.float64)
    models: Any = SimpleNamespace(transformer=component, adapters=(), kernels="off")
    source: Any = ToySource()
    policy = Policy(models, config, torch.device("cpu"))
    return ToyTrainer(config, policy, source, ToyReward(), RecordingHost(), Distributed())


def expected_gradients(policy: ToyField, reference: ToyField, step: int) -> list[Tensor]:
    """The equations of the paper, one graph from the parameters to the loss, all in float64."""
    batches, stop = ToySource().draw(step)
    noise = torch.cat([b.noise for b in batches])
    reference_noise = torch.cat([b.reference_noise for b in batches])
    with torch.no_grad():
        y = reference_noise
        for i in range(STEPS):
            y = y + (SIGMAS[i + 1] - SIGMAS[i]) * reference(y, SIGMAS[i])
        x = noise
        for i in range(stop):
            x = x + (SIGMAS[i + 1] - SIGMAS[i]) * policy(x, SIGMAS[i])
        reference_velocity = reference(x, SIGMAS[stop])
    velocity = policy(x, SIGMAS[stop])
    x0 = x - SIGMAS[stop] * velocity
    total = torch.zeros((), dtype=torch.float64)
    for b in range(BATCH):
        for answer in toy_answers(x0[b], y[b]):
            total = total + torch.clamp(CAP - answer, min=0) / DIMENSIONS / BATCH
    total = total + KL_WEIGHT * (velocity - reference_velocity).square().mean()
    return list(torch.autograd.grad(total, list(policy.parameters())))


@pytest.mark.parametrize("algorithm", ["fixed", "dynamic"])
def test_gradient_reference_and_average_follow_the_equations(
    tmp_path: Path, algorithm: str
) -> None:
    trainer = make_trainer(tmp_path, algorithm)
    start = [p.detach().clone() for p in trainer.policy.module.parameters()]
    average = [p.float() for p in start]
    reference = ToyField()
    gradients: list[list[Tensor]] = []
    update = trainer.policy.update
    trainer.policy.update = lambda rate: (  # type: ignore[method-assign]
        gradients.append([g.clone() for g in trainer.policy.gradients()]),
        update(rate),
    )[1]
    for step in range(4):
        with torch.no_grad():
            reference_weights = start if algorithm == "fixed" else average
            for p, value in zip(reference.parameters(), reference_weights, strict=True):
                p.copy_(value)
        expected = expected_gradients(trainer.policy.module, reference, step)
        trainer.train_step()
        for actual, target in zip(gradients[-1], expected, strict=True):
            torch.testing.assert_close(actual.double(), target, rtol=1e-5, atol=1e-7)
        masters = list(trainer.policy.masters.values())
        average = [DECAY * a + (1 - DECAY) * m for a, m in zip(average, masters, strict=True)]
        for actual, target in zip(trainer.policy.ema.values(), average, strict=True):
            torch.testing.assert_close(actual, target, rtol=1e-6, atol=1e-7)
    weights = zip(trainer.policy.module.parameters(), start, strict=True)
    assert all(not torch.allclose(p, s) for p, s in weights)


def test_the_policy_improves_on_its_reference(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, "fixed", kl_weight=0.0)
    rewards = [trainer.train_step()["reward"] for _ in range(150)]
    assert sum(rewards[-20:]) / 20 > sum(rewards[:20]) / 20 + 0.1


def test_adamw_is_torchs_own_in_float32(tmp_path: Path) -> None:
    """What is learned equals torch's AdamW on the same gradients, clipped."""
    trainer = make_trainer(tmp_path, "fixed", max_grad_norm=0.01, warmup_steps=2)
    twin = [p.detach().float().clone().requires_grad_(True) for p in ToyField().parameters()]
    optimizer = torch.optim.AdamW(twin, weight_decay=0.0)
    for step in range(4):
        reference = ToyField()
        gradients = expected_gradients(trainer.policy.module, reference, step)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        assert norm > 0.01, "the clip is exercised"
        for p, g in zip(twin, gradients, strict=True):
            p.grad = (g * 0.01 / norm).float()
        optimizer.param_groups[0]["lr"] = 0.05 * min(1.0, (step + 1) / 3)
        optimizer.step()
        trainer.train_step()
        for p, master in zip(twin, trainer.policy.masters.values(), strict=True):
            torch.testing.assert_close(p, master, rtol=1e-3, atol=1e-5)


def test_learning_rate_zero_changes_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, "dynamic", learning_rate=0.0)
    # What learns is float32, which the toy's float64 parameters take over.
    before = [p.detach().float().double() for p in trainer.policy.module.parameters()]
    trainer.train_step()
    after = list(trainer.policy.module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for master, average in zip(
        trainer.policy.masters.values(), trainer.policy.ema.values(), strict=True
    ):
        assert torch.equal(master, average)


def test_a_loss_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, "fixed")
    before = [m.detach().clone() for m in trainer.policy.masters.values()]
    judge = ToyReward.judge

    def broken(self: ToyReward, *arguments: Any) -> RewardOutput:
        output = judge(self, *arguments)
        output.losses[0] = torch.nan
        return output

    monkeypatch.setattr(ToyReward, "judge", broken)
    with pytest.raises(RuntimeError, match=r"step 0 gave loss nan.*nothing was changed"):
        trainer.train_step()
    after = trainer.policy.masters.values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trainer.step == 0
    assert not any(g.any() for g in trainer.policy.gradients())
