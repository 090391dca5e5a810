"""Adapters beside packed weights learn what they learn beside the same weights expanded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.config import ModelConfig
from onereward.fill.models import load_fill_models
from onereward.fill.task import Dimension, Task
from onereward.reward.judge import JudgeConfig
from onereward.reward.query import Query
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.trainer import make_trainable
from onereward.training.policy.run import PolicyRun, RunModels, check, train_policy
from onereward.training.runs.distributed import Distributed
from support import checkpoints
from support.autograd import expand_linears, saved_by_autograd
from support.bundled_models import BUNDLED
from support.judges import make_judge
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import RecordingHost

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"))


def fill_random(parameters: list[torch.nn.Parameter]) -> None:
    """Give adapters values: fresh ones are zero on one side, and so is half of the gradient."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("gradient_checkpointing", ["off", "blocks"])
@pytest.mark.parametrize("precision", ["fp8", "nf4"])
def test_a_policy_has_the_gradients_of_its_expanded_base(
    precision: str, gradient_checkpointing: str, judge: Path, conditions: Path, tmp_path: Path
) -> None:
    model = {"folder": str(BUNDLED), "precision": precision}
    config = policy_config(
        tmp_path, conditions, judge, model=model, gradient_checkpointing=gradient_checkpointing
    )
    gradients, saved_bytes = [], []
    for expanded in (False, True):
        models = load_fill_models(config.model_config(), CPU)
        assert models.transformer.num_bytes < 0.5 * sum(
            info.numel * 4 for info in models.transformer_tensors.values()
        )
        if expanded:
            expand_linears(models.transformer.module)
        run_models = RunModels(models=models, judges=run_models_for(config).judges)
        run = PolicyRun(config, RecordingHost(), run_models, Distributed())
        parameters = run.trainer.policy.parameters
        fill_random(list(parameters.values()))
        (batch, *_), _ = run.trainer.source.draw(0)
        try:
            with saved_by_autograd(run.trainer.policy.module) as sizes:
                velocity = run.trainer.velocity(batch, batch.noise, 0)
            saved_bytes.append(sum(sizes))
            velocity.square().mean().backward()
            gradients.append({name: p.grad for name, p in parameters.items()})
        finally:
            run.close()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-7, msg=name)
    assert saved_bytes[0] <= saved_bytes[1]


@pytest.mark.parametrize("precision", ["fp8", "nf4"])
def test_a_judge_has_the_gradients_of_its_expanded_self(
    precision: str, judge: Path, tmp_path: Path
) -> None:
    """At the images, where the policy's gradient begins, and at an adapter of its own."""
    config = JudgeTrainConfig(
        run_folder=str(tmp_path), preferences_folder=str(tmp_path), judge_folder=str(judge), rank=2
    )
    query = Query(task=Task.REMOVE, dimension=Dimension.REMOVAL_QUALITY)
    gradients, saved_bytes = [], []
    for expanded in (False, True):
        judge_model = QwenJudge(JudgeConfig(folder=str(judge), precision=precision), CPU)
        model: Any = judge_model.component.module
        weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
        assert judge_model.component.num_bytes == pytest.approx(
            weights, rel=0.01
        )  # buffers of positions
        if expanded:
            expand_linears(model)
        make_trainable(model, replace(config, gradient_checkpointing="off"))
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        fill_random(list(trained.values()))
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
        image.requires_grad_(True)
        with saved_by_autograd(model) as sizes:
            answer = judge_model.ask(
                judge_model.encode(image), judge_model.encode(1 - image), [query]
            )
        saved_bytes.append(sum(sizes))
        answer.sum().backward()
        gradients.append({"image": image.grad} | {n: p.grad for n, p in trained.items()})
    assert len(gradients[0]) > 2
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-9, msg=name)
    assert saved_bytes[0] <= saved_bytes[1]


def test_a_run_on_packed_policy_and_judge(judge: Path, conditions: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": {"folder": str(BUNDLED), "precision": "nf4"},
        "judges": ({"folder": str(judge), "precision": "fp8"},),
        "steps": 1,
        "batch_size": 2,
    }
    config = policy_config(tmp_path / "run", conditions, judge, **changes)
    result = train_policy(config, RecordingHost())
    trained = load_fill_models(config.model_config(), CPU).with_adapter(result.path, 1.0)
    assert trained.adapters[0].strength == 1.0


def test_packed_weights_do_not_learn(judge: Path, conditions: Path, tmp_path: Path) -> None:
    model = {"folder": str(BUNDLED), "precision": "nf4"}
    with pytest.raises(ValueError, match="in precision nf4 they are packed and frozen"):
        policy_config(tmp_path, conditions, judge, mode="full", model=model)
    with pytest.raises(ValueError, match="in precision fp8 they are packed and frozen"):
        JudgeTrainConfig(
            run_folder="run",
            preferences_folder="data",
            mode="full",
            precision="fp8",
            judge_folder="j",
        )
    tensors = checkpoints.as_fp8(checkpoints.part_tensors("transformer"), torch.float8_e4m3fn)
    file = checkpoints.save(tmp_path / "fp8.safetensors", tensors)
    stored: dict[str, Any] = {"folder": str(BUNDLED), "transformer": str(file)}
    config = policy_config(tmp_path / "run", conditions, judge, mode="full", model=stored)
    models = load_fill_models(ModelConfig(**stored), CPU)
    with pytest.raises(ValueError, match=r"fp8.safetensors are packed and frozen; set mode to"):
        check(
            config, RecordingHost(), RunModels(models=models, judges=run_models_for(config).judges)
        )
    assert not models.transformer.is_loaded
