"""The oracle control: its reward, and a few steps of it on the bundled model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from onereward.lab.adapters.control import control_config, make_scenes
from onereward.lab.ground_truth import OracleReward
from onereward.lab.world.conditions import TASKS, sample_conditions
from onereward.lab.world.nearest import nearest_truth
from onereward.lab.world.splits import Split
from onereward.reward.report import sign_test
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.run import PolicyRun, train_policy
from onereward.training.policy.run_models import RunModels
from onereward.training.runs.distributed import Distributed
from support.policy_runs import make_conditions, run_models_for
from support.recording_host import RecordingHost


def test_the_true_image_is_nearest_to_itself() -> None:
    scenes = sample_conditions(Split.TRAIN, 5, torch.arange(len(TASKS)).repeat(6))
    nearest = nearest_truth(scenes.target, scenes)
    # A shape is fitted by its area and centroid; its drawn edges are soft.
    assert (nearest - scenes.target).square().mean().sqrt() < 0.03
    remove = scenes.task == TASKS.index("remove")
    assert torch.equal(nearest[remove], scenes.target[remove])


def test_a_shape_elsewhere_is_as_right_and_a_blur_is_not() -> None:
    scenes = sample_conditions(Split.TRAIN, 6, torch.zeros(12, dtype=torch.long))
    shifted = scenes.coverage.roll(shifts=3, dims=2) * scenes.mask
    object_colour = scenes.object_colour[:, :, None, None].expand_as(scenes.target)
    image = torch.lerp(scenes.background, object_colour, shifted[:, None])
    blurred = torch.nn.functional.avg_pool2d(scenes.target, 9, 1, 4)
    inside = scenes.mask[:, None]

    def error(images: torch.Tensor) -> float:
        right = nearest_truth(images, scenes)
        return float(((images - right).square() * inside).mean().sqrt())

    assert error(image) < 0.5 * error(blurred)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "conditions", 40)


def by_oracle(config: PolicyTrainConfig) -> RunModels:
    return replace(run_models_for(config), reward=OracleReward)


def small(run: Path, scenes: Path, steps: int) -> PolicyTrainConfig:
    config = control_config(run, scenes, steps)
    return replace(config, batch_size=4, micro_batch_size=4, sampling_steps=6, learning_rate=2e-3)


def test_the_loop_raises_a_reward_that_is_right(scenes: Path, tmp_path: Path) -> None:
    """On draws that stay the same, the oracle's mean score rises."""
    config = small(tmp_path, scenes, 12)
    run = PolicyRun(config, RecordingHost(), by_oracle(config), Distributed())
    trainer = run.trainer
    batches = [batch for step in range(500, 503) for batch in trainer.source.draw(step)[0]]

    @torch.no_grad()
    def error() -> float:
        losses = []
        for batch in batches:
            stop = 4
            x = trainer.rollout(batch, batch.noise, stop)
            x0 = x - batch.sigmas[stop] * trainer.velocity(batch, x, stop)
            losses += trainer.reward.judge(batch, x0, x0).losses.tolist()
        return sum(losses) / len(losses)

    try:
        before = error()
        for _ in range(12):
            trainer.train_step()
        after = error()
    finally:
        run.close()
    assert after < before


def test_it_resumes_exactly_and_knows_scenes_only(scenes: Path, tmp_path: Path) -> None:
    whole = small(tmp_path / "whole", scenes, 2)
    train_policy(whole, RecordingHost(), by_oracle(whole))
    for steps in (1, 2):
        config = small(tmp_path / "parts", scenes, steps)
        train_policy(config, RecordingHost(), by_oracle(config))
    states = [load_file(tmp_path / n / "checkpoint/state.safetensors") for n in ("whole", "parts")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    photographs = small(tmp_path / "other", make_conditions(tmp_path / "images"), 1)
    with pytest.raises(ValueError, match="is no scene of the toy world"):
        train_policy(photographs, RecordingHost(), by_oracle(photographs))


def test_sign_test_against_the_binomial() -> None:
    from scipy.stats import binomtest

    for won, lost in ((7, 29), (5, 4), (0, 0), (18, 41), (3, 3)):
        expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
        assert sign_test(won, lost) == pytest.approx(expected)
