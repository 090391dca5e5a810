"""The supervised warm-up: its loss against the equation, and that it learns what it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.fill.sampling.latents import encode_pixels, pack_latents
from onereward.fill.task import Task
from onereward.training.data.conditions import (
    Condition,
    EditDataset,
    read_image,
    save_image,
    write_conditions,
)
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.objectives.flow import sample_sigma
from onereward.training.policy.objectives.supervised import SupervisedTrainer
from onereward.training.policy.run import PolicyRun, train_policy
from onereward.training.runs.distributed import Distributed
from support.bundled_models import bundled_models
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import RecordingHost


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"))


def supervised(run: Path, conditions: Path, **changes: Any) -> PolicyTrainConfig:
    values: dict[str, Any] = {"objective": "supervised", "judges": (), "sampling_steps": 4}
    return policy_config(run, conditions, conditions, **(values | changes))


def test_loss_is_flow_matching_without_guidance(conditions: Path, tmp_path: Path) -> None:
    config = supervised(tmp_path, conditions)
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    trainer = run.trainer
    assert isinstance(trainer, SupervisedTrainer)
    try:
        (batch, *_), _ = trainer.source.draw(0)
        (again, *_), _ = trainer.source.draw(0)
        with torch.no_grad():
            losses = trainer.losses(batch)
        sigma = torch.tensor([sample_sigma(again.sigmas, g) for g in again.generators])[
            :, None, None
        ]
        vae, transformer = bundled_models().vae.module, bundled_models().transformer.module
        pixels = torch.stack([job.model_input()[0] for job in batch.jobs])
        config_of: Any = vae.config
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mode()  # type: ignore[operator]
            latents = (latents - config_of.shift_factor) * config_of.scaling_factor
            rows, (height, width) = latents.shape[0], batch.size
            clean = latents.view(rows, -1, height // 2, 2, width // 2, 2)
            clean = clean.permute(0, 2, 4, 1, 3, 5).reshape(rows, height * width // 4, -1)
            x = (1 - sigma) * clean + sigma * batch.noise
            cond = batch.conditioning
            guidance = None if cond.guidance is None else torch.full((rows,), cond.guidance)
            velocity = transformer(
                hidden_states=torch.cat([x, cond.packed], dim=2),
                timestep=sigma.flatten(),
                guidance=guidance,
                encoder_hidden_states=cond.positive.sequence,
                pooled_projections=cond.positive.pooled_embeds,
                txt_ids=torch.zeros(cond.positive.sequence.shape[1], 3),
                img_ids=cond.image_ids,
                return_dict=False,
            )[0]
        expected = (velocity - (batch.noise - clean)).square().mean(dim=(1, 2))
    finally:
        run.close()
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    assert len(set(sigma.flatten().tolist())) == rows


def test_conditions_that_name_their_result_are_learned_whatever_the_task(
    conditions: Path, tmp_path: Path
) -> None:
    """The truth is the result's own latents; what the model is shown stays the source."""
    dataset, grey = EditDataset(conditions), torch.full((64, 64, 3), 0.5)
    folder = tmp_path / "known"
    folder.mkdir()

    def items() -> Iterator[tuple[Condition, torch.Tensor, torch.Tensor]]:
        for condition in dataset.conditions:
            image, mask = dataset.images(condition)
            name = f"{condition.name}.result.png"
            save_image(folder / name, torch.lerp(image[0], grey, mask[0, ..., None]))
            yield replace(condition, result_file_name=name), image[0], mask[0]

    write_conditions(folder, items())
    config = supervised(tmp_path / "run", folder, grow=0, feather=0)
    plain = supervised(tmp_path / "plain", conditions, grow=0, feather=0)
    host = RecordingHost()
    run = PolicyRun(config, host, run_models_for(config), Distributed())
    plain_run = PolicyRun(plain, RecordingHost(), run_models_for(plain), Distributed())
    try:
        assert not [line for line in host.lines if "is left out" in line]
        sources = run.trainer.source, plain_run.trainer.source
        plain_condition = sources[1].train[Task.FILL][0]
        (with_result,) = [c for c in sources[0].train[Task.FILL] if c.name == plain_condition.name]
        pairs = zip(sources, (with_result, plain_condition), strict=True)
        batches = [next(iter(s.batches([(0, s.sample(c, 1, 2))], 0))) for s, c in pairs]
        pixels = read_image(folder / with_result.result_file_name).permute(2, 0, 1)[None] * 2 - 1
        with torch.no_grad():
            latents = encode_pixels(bundled_models().vae.module, pixels)
    finally:
        run.close()
        plain_run.close()
    assert batches[0].truth is not None
    assert batches[1].truth is not None
    torch.testing.assert_close(batches[0].truth, pack_latents(latents), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(batches[0].truth, batches[1].truth, atol=0.1)
    conditioning = [batch.conditioning.packed for batch in batches]
    torch.testing.assert_close(conditioning[0], conditioning[1], rtol=1e-4, atol=1e-4)


def test_every_level_between_two_steps_is_equally_likely() -> None:
    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.0])
    generator = torch.Generator().manual_seed(0)
    levels = torch.tensor([sample_sigma(sigmas, generator) for _ in range(3000)])
    for high, low in ((1.0, 0.9), (0.9, 0.5), (0.5, 0.0)):
        inside = levels[(levels > low) & (levels <= high)]
        assert len(inside) / len(levels) == pytest.approx(1 / 3, abs=0.04)
        assert float(inside.mean()) == pytest.approx((high + low) / 2, abs=0.04 * (high - low) * 2)


def test_it_learns_what_it_is_shown(conditions: Path, tmp_path: Path) -> None:
    config = supervised(
        tmp_path, conditions, batch_size=8, micro_batch_size=8, learning_rate=1e-3, rank=16
    )
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    trainer = run.trainer
    assert isinstance(trainer, SupervisedTrainer)

    def loss() -> float:
        batches = [batch for step in range(1000, 1005) for batch in trainer.source.draw(step)[0]]
        with torch.no_grad():
            return float(torch.cat([trainer.losses(batch) for batch in batches]).mean())

    try:
        before = loss()
        for _ in range(25):
            trainer.train_step()
        after = loss()
    finally:
        run.close()
    assert after < 0.9 * before


def test_it_resumes_exactly_and_leaves_out_what_has_no_truth(
    conditions: Path, tmp_path: Path
) -> None:
    host = RecordingHost()
    config = supervised(tmp_path / "whole", conditions)
    result = train_policy(config, host, run_models_for(config))
    assert all("loss" in record and "reward" not in record for record in result.metrics)
    assert {line.split()[0] for line in host.lines if "is left out" in line} == {
        Task.EXTEND.value,
        Task.REMOVE.value,
    }
    for steps in (1, 3):
        parts = supervised(tmp_path / "parts", conditions, steps=steps)
        train_policy(parts, RecordingHost(), run_models_for(parts))
    states = [load_file(tmp_path / n / "checkpoint/state.safetensors") for n in ("whole", "parts")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
