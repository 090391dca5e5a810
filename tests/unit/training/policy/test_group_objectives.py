"""Objectives nft and best_of_n: groups, win rates, and that they teach what the judge prefers."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.fill.task import Task
from onereward.reward.query import queries_for
from onereward.training.edited_image import EditedImage
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.objectives.group import GroupTrainer
from onereward.training.policy.objectives.group_reward import win_rates
from onereward.training.policy.run import PolicyRun, train_policy
from onereward.training.policy.run_models import RunModels
from onereward.training.runs.distributed import Distributed
from support.brightness_judge import BrightnessJudge
from support.bundled_models import bundled_models
from support.policy_runs import make_conditions, policy_config
from support.recording_host import RecordingHost

OBJECTIVES = ("nft", "best_of_n")


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"))


def config_for(run: Path, conditions: Path, objective: str, **changes: Any) -> PolicyTrainConfig:
    values: dict[str, Any] = {
        "objective": objective,
        "batch_size": 8,
        "micro_batch_size": 3,
        "group_size": 4,
        "true_cfg": 1.0,
    }
    return policy_config(run, conditions, Path("brightness"), **values | changes)


def models() -> RunModels:
    return RunModels(models=bundled_models(), judges=(BrightnessJudge(),))


def test_win_rates_are_those_of_the_ring_counted_by_hand() -> None:
    values = [0.10, 0.12, 0.40]
    image, mask = torch.zeros(3, 8, 8), torch.ones(8, 8)
    edit = EditedImage(
        condition=Any,  # type: ignore[arg-type]
        source=image,
        mask=mask,
        image=image,
    )
    edits = [replace(edit, image=torch.full((3, 8, 8), value)) for value in values]
    queries = queries_for(Task.REMOVE, "")
    judge = BrightnessJudge()
    rates = win_rates(judge, edits, queries, 1, 2, RecordingHost())

    def chance(a: float, b: float) -> float:
        return 1 / (1 + math.exp(-100 * (a - b)))

    # 0 meets 1, 1 meets 2, 2 meets 0.
    expected = [
        (chance(values[0], values[1]) + chance(values[0], values[2])) / 2,
        (chance(values[1], values[2]) + chance(values[1], values[0])) / 2,
        (chance(values[2], values[0]) + chance(values[2], values[1])) / 2,
    ]
    assert rates.shape == (3, len(queries))
    for column in rates.T:
        assert column.tolist() == pytest.approx(expected, abs=1e-6)
    assert judge.num_encoded == 3, "every image once"


def test_siblings_share_the_condition_and_differ_in_the_noise(
    conditions: Path, tmp_path: Path
) -> None:
    config = config_for(tmp_path, conditions, "nft")
    run = PolicyRun(config, RecordingHost(), models(), Distributed())
    try:
        batches, _ = run.trainer.source.draw(0)
        shares = [run.trainer.source.draw(0, rank, 2)[0] for rank in (0, 1)]
    finally:
        run.close()
    samples = [sample for batch in batches for sample in batch.samples]
    assert len(samples) == 8
    for _, members in groupby(samples, key=lambda sample: sample.group):
        siblings = list(members)
        assert len(siblings) == 4
        assert len({sample.condition.name for sample in siblings}) == 1
        assert len({sample.noise_seed for sample in siblings}) == 4
    groups = [{s.group for batch in share for s in batch.samples} for share in shares]
    assert groups == [{0}, {1}], "a process has whole groups"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_teaches_what_a_judge_without_gradient_prefers(
    objective: str, conditions: Path, tmp_path: Path
) -> None:
    """Images get brighter inside the mask, on noises that were never drawn."""
    config = config_for(
        *(tmp_path, conditions, objective),
        batch_size=16,
        micro_batch_size=16,
        learning_rate=2e-3,
        rank=8,
        alpha=8.0,
        num_rivals=4,
        mask_loss=True,
    )
    run = PolicyRun(config, RecordingHost(), models(), Distributed())
    trainer = run.trainer
    assert isinstance(trainer, GroupTrainer)

    def brightness() -> torch.Tensor:
        batches = trainer.source.draw(1000)[0]
        with torch.no_grad():
            latents = [trainer.rollout(b, b.noise, trainer.source.settings.steps) for b in batches]
        decoder = trainer.judge_reward.decoder
        images = [
            image.mean()
            for batch, rows in zip(batches, latents, strict=True)
            for image in decoder.images(batch, rows)
        ]
        return torch.stack(images)

    try:
        with torch.no_grad():
            before = brightness()
        spreads = [trainer.train_step()["spread"] for _ in range(12)]
        with torch.no_grad():
            after = brightness()
    finally:
        run.close()
    assert min(spreads) > 0
    assert (after > before).float().mean() > 0.75, "of 16 edits that nothing was learned from"
    assert after.mean() > before.mean() * 1.01


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_resumes_exactly(objective: str, conditions: Path, tmp_path: Path) -> None:
    whole = config_for(tmp_path / "whole", conditions, objective, steps=2, kl_weight=0.1)
    train_policy(whole, RecordingHost(), models())
    for steps in (1, 2):
        parts = config_for(tmp_path / "parts", conditions, objective, steps=steps, kl_weight=0.1)
        train_policy(parts, RecordingHost(), models())
    states = [load_file(tmp_path / n / "checkpoint/state.safetensors") for n in ("whole", "parts")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_groups_that_do_not_fill_the_batch_are_refused(conditions: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is 6, but objective nft needs a multiple"):
        config_for(tmp_path, conditions, "nft", batch_size=6)


def test_objective_reward_refuses_a_judge_without_gradient(
    conditions: Path, tmp_path: Path
) -> None:
    config = config_for(tmp_path, conditions, "reward")
    with pytest.raises(ValueError, match=r"brightness cannot train by objective reward.*nft"):
        train_policy(config, RecordingHost(), models())
