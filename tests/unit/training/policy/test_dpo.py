"""Objective dpo: its errors against the equation, what it learns, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.fill.sampling.latents import encode_pixels, pack_latents
from onereward.fill.task import TASKS
from onereward.reward.preference import CandidateGroup, Preference, PreferenceSet, split_of
from onereward.training.data.conditions import EditDataset, read_image, save_image
from onereward.training.objectives import dpo_loss
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.objectives.dpo import DpoTrainer
from onereward.training.policy.objectives.flow import sample_levels
from onereward.training.policy.run import PolicyRun, train_policy
from onereward.training.runs.distributed import Distributed
from support.bundled_models import bundled_models
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import RecordingHost


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"))


@pytest.fixture(scope="module")
def preferences(conditions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A white candidate wins over a black one, everywhere."""
    folder = tmp_path_factory.mktemp("preferences")
    data, dataset = PreferenceSet(folder), EditDataset(conditions)
    for condition in dataset.conditions:
        image, mask = dataset.images(condition)
        names = [f"{condition.name}-{shade}.png" for shade in ("white", "black")]
        for name, shade in zip(names, (0.95, 0.05), strict=True):
            grey = torch.full_like(image[0], shade)
            save_image(folder / name, torch.lerp(image[0], grey, mask[0, ..., None]))
        data.add(
            Preference(
                winner_file_name=names[0],
                loser_file_name=names[1],
                task=condition.task,
                dimension=TASKS[condition.task].dimensions[-1],
                condition=condition.name,
                judged_by="human",
            )
        )
    return folder


def dpo(run: Path, conditions: Path, preferences: Path, **changes: Any) -> PolicyTrainConfig:
    values: dict[str, Any] = {
        "objective": "dpo",
        "judges": (),
        "sampling_steps": 4,
        "preferences_folder": str(preferences),
    }
    return policy_config(run, conditions, conditions, **(values | changes))


def trainer_of(run: PolicyRun) -> DpoTrainer:
    trainer = run.trainer
    assert isinstance(trainer, DpoTrainer)
    return trainer


def test_errors_are_those_of_winner_and_loser_at_the_same_noise(
    conditions: Path, preferences: Path, tmp_path: Path
) -> None:
    config = dpo(tmp_path, conditions, preferences, micro_batch_size=1, grow=0, feather=0)
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    trainer = trainer_of(run)
    try:
        batch = trainer.source.draw(0)[0][0]
        sigma = sample_levels(batch)
        with torch.no_grad():
            errors = trainer.pair_errors(batch, sigma)[0]
        pair = batch.samples[0].pair
        assert pair is not None
        assert split_of(batch.samples[0].condition.name) == "train"
        transformer = bundled_models().transformer.module
        cond, expected = batch.conditioning, []
        with torch.no_grad():
            for path in pair:
                pixels = read_image(path).permute(2, 0, 1)[None] * 2 - 1
                image = pack_latents(encode_pixels(bundled_models().vae.module, pixels))
                x = (1 - sigma) * image + sigma * batch.noise
                velocity = transformer(
                    hidden_states=torch.cat([x, cond.packed], dim=2),
                    timestep=sigma,
                    guidance=None if cond.guidance is None else torch.full((1,), cond.guidance),
                    encoder_hidden_states=cond.positive.sequence,
                    pooled_projections=cond.positive.pooled_embeds,
                    txt_ids=torch.zeros(cond.positive.sequence.shape[1], 3),
                    img_ids=cond.image_ids,
                    return_dict=False,
                )[0]
                expected.append((velocity - (batch.noise - image)).square().mean())
    finally:
        run.close()
    assert {path.name.rpartition("-")[2] for path in pair} == {"white.png", "black.png"}
    torch.testing.assert_close(errors, torch.stack(expected), rtol=1e-3, atol=1e-4)


def test_the_mask_alone_counts_if_asked(
    conditions: Path, preferences: Path, tmp_path: Path
) -> None:
    """Tokens that are kept have weight 0, whole ones 1, and those at the border a share."""
    config = dpo(tmp_path, conditions, preferences, mask_loss=True, grow=0, feather=0)
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    trainer = trainer_of(run)
    try:
        batch = trainer.source.draw(0)[0][0]
        weights = trainer.token_weights(batch)
    finally:
        run.close()
    assert weights is not None
    for row, job in zip(weights, batch.jobs, strict=True):
        mask = job.model_input()[1]
        side = int((mask.numel() / row.numel()) ** 0.5)
        expected = torch.nn.functional.avg_pool2d(mask[None, None].float(), side).flatten()
        torch.testing.assert_close(row, expected)


def test_it_learns_what_wins_and_resumes_exactly(
    conditions: Path, preferences: Path, tmp_path: Path
) -> None:
    """The loss falls below log 2, where nothing is told apart, on pairs never drawn before."""
    changes: dict[str, Any] = {"batch_size": 8, "micro_batch_size": 8, "learning_rate": 1e-3}
    changes |= {"dpo_beta": 50.0, "steps": 8}
    config = dpo(tmp_path / "whole", conditions, preferences, **changes)
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    trainer = trainer_of(run)

    def loss() -> float:
        batch = trainer.source.draw(1000)[0][0]
        sigma = sample_levels(batch)
        with torch.no_grad():
            with trainer.policy.as_reference():
                reference = trainer.pair_errors(batch, sigma)
            return float(dpo_loss(trainer.pair_errors(batch, sigma), reference, 50.0).mean())

    try:
        assert loss() == pytest.approx(0.6931, abs=1e-4)
        told_apart = [trainer.train_step()["told_apart"] for _ in range(8)]
        after = loss()
    finally:
        run.close()
    assert after < 0.66
    assert told_apart[-1] >= 0.5
    small: dict[str, Any] = {"steps": 2, "batch_size": 2}
    train_policy(config := dpo(tmp_path / "one", conditions, preferences, **small), RecordingHost())
    for steps in (1, 2):
        config = dpo(tmp_path / "two", conditions, preferences, **small | {"steps": steps})
        train_policy(config, RecordingHost())
    states = [load_file(tmp_path / n / "checkpoint/state.safetensors") for n in ("one", "two")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_pairs_of_other_data_are_refused_and_other_makers_named(
    conditions: Path, preferences: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="preferences_folder is empty"):
        dpo(tmp_path, conditions, preferences, preferences_folder="")
    empty = PreferenceSet(tmp_path / "empty")
    config = dpo(tmp_path / "run", conditions, empty.folder)
    with pytest.raises(ValueError, match="holds no labelled pairs"):
        train_policy(config, RecordingHost(), run_models_for(config))
    empty.add(replace(PreferenceSet(preferences).pairs()[0], condition="unknown"))
    with pytest.raises(ValueError, match=r"no pair in .* is of a condition in"):
        train_policy(config, RecordingHost(), run_models_for(config))
    data = PreferenceSet(preferences)
    pair = data.pairs()[0]
    names = (pair.winner_file_name, pair.loser_file_name)
    group = CandidateGroup(
        file_names=names, task=pair.task, condition=pair.condition, made_by="another"
    )
    data.add_group(group)
    host, config = RecordingHost(), dpo(tmp_path / "run2", conditions, preferences, steps=1)
    train_policy(config, host, run_models_for(config))
    assert [line for line in host.lines if "made by another model" in line]
