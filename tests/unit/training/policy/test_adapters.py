"""Adapters as files: merged exactly, trained on top of others, on packed bases, on a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.fill.checkpoint.adapters import apply_adapters
from onereward.fill.config import ModelConfig
from onereward.fill.models import FillModels, load_fill_models
from onereward.training.policy.adapter_file import read_about, write_adapter
from onereward.training.policy.merge_adapters import save_adapters
from onereward.training.policy.run import PolicyRun, RunModels, train_policy
from onereward.training.policy.weights import lora_targets
from onereward.training.runs.distributed import Distributed
from support import checkpoints
from support.bundled_models import BUNDLED, bundled_models
from support.judges import make_judge
from support.machine import ROOT
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import RecordingHost


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"), per_task=3)


def make_adapter(path: Path, layers: str, rank: int, seed: int, scale: float = 1.0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    module: Any = bundled_models().transformer.module
    weights = {}
    for name in lora_targets(module, layers):
        layer = module.get_submodule(name)
        shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
        for key, shape in shapes.items():
            weight = 0.1 * torch.randn(shape, generator=generator)
            weights[f"{name}.lora_{key}.weight"] = weight
    write_adapter(path, weights, {"step": seed}, scale)
    return path


@torch.no_grad()
def velocity(models: FillModels) -> torch.Tensor:
    """What the transformer says about fixed inputs, with a model's adapters on it."""
    module: Any = models.transformer.module
    config = models.transformer_config
    apply_adapters(module, models.adapters)
    generator = torch.Generator().manual_seed(1)
    try:
        return module(
            hidden_states=torch.randn(1, 16, config["in_channels"], generator=generator),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([3.5]) if models.has_guidance else None,
            encoder_hidden_states=torch.randn(
                1, 4, config["joint_attention_dim"], generator=generator
            ),
            pooled_projections=torch.randn(1, config["pooled_projection_dim"], generator=generator),
            txt_ids=torch.zeros(4, 3),
            img_ids=torch.zeros(16, 3),
            return_dict=False,
        )[0]
    finally:
        apply_adapters(module, ())


def test_several_adapters_become_one_exactly(tmp_path: Path) -> None:
    base = bundled_models()
    first = make_adapter(tmp_path / "a.safetensors", "attention", 2, seed=1, scale=0.5)
    second = make_adapter(tmp_path / "b.safetensors", "attention_mlp", 3, seed=2)
    stack = base.with_adapter(first, 0.7).with_adapter(second, -0.4)
    save_adapters(tmp_path / "one.safetensors", stack, torch.float32)
    merged = base.with_adapter(tmp_path / "one.safetensors", 1.0)
    plain, expected = velocity(base), velocity(stack)
    assert (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(velocity(merged), expected, rtol=1e-4, atol=1e-5)
    about = read_about(tmp_path / "one.safetensors")["adapters"]
    assert [(a["file"], a["strength"], a["step"]) for a in about] == [
        ("a.safetensors", 0.7, 1),
        ("b.safetensors", -0.4, 2),
    ]


def test_another_adapter_is_not_overwritten_unasked(tmp_path: Path) -> None:
    base = bundled_models()
    first = base.with_adapter(make_adapter(tmp_path / "a.safetensors", "attention", 2, 1), 1.0)
    second = base.with_adapter(make_adapter(tmp_path / "b.safetensors", "attention", 2, 2), 1.0)
    path = tmp_path / "loras" / "mine.safetensors"
    save_adapters(path, first, torch.bfloat16)
    before = path.read_bytes()
    save_adapters(path, first, torch.bfloat16)  # the same again
    with pytest.raises(ValueError, match="is there already and another adapter"):
        save_adapters(path, second, torch.bfloat16)
    assert path.read_bytes() == before
    save_adapters(path, second, torch.bfloat16, overwrite=True)
    assert path.read_bytes() != before
    assert [p.name for p in path.parent.iterdir()] == ["mine.safetensors"]
    with pytest.raises(ValueError, match="has no adapter to save"):
        save_adapters(path, base, torch.bfloat16)


def test_a_second_round_starts_from_the_first(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    """Alg. 1's reference is the model with the first round's adapter, at its strength."""
    first = make_adapter(tmp_path / "first.safetensors", "attention_mlp", 2, seed=3)
    models = bundled_models().with_adapter(first, 0.5)
    settings: dict[str, Any] = {"adapters": (str(first),), "strengths": (0.5,), "steps": 1}
    config = policy_config(tmp_path / "run", conditions, judge, **settings)
    run_models = RunModels(models=models, judges=run_models_for(config).judges)
    run = PolicyRun(config, RecordingHost(), run_models, Distributed())
    (batch, *_), _ = run.trainer.source.draw(0)
    try:
        run.trainer.train_step()
        with torch.no_grad(), run.trainer.policy.as_reference():
            reference = run.trainer.velocity(batch, batch.noise, 0)
    finally:
        run.close()
    apply_adapters(models.transformer.module, models.adapters)
    with torch.no_grad():
        expected = run.trainer.velocity(batch, batch.noise, 0)
    apply_adapters(models.transformer.module, ())
    assert torch.equal(reference, expected)
    result = train_policy(config, RecordingHost(), run_models)
    twice = models.with_adapter(result.path, 1.0)
    save_adapters(tmp_path / "both.safetensors", twice, torch.float32)
    merged = bundled_models().with_adapter(tmp_path / "both.safetensors", 1.0)
    torch.testing.assert_close(velocity(merged), velocity(twice), rtol=1e-4, atol=1e-5)


def test_a_packed_base_is_trained_as_its_expanded_copy(
    judge: Path, conditions: Path, tmp_path: Path, comfy_base: Path
) -> None:
    """An adapter on fp8 weights learns what it learns on the same weights in full precision."""
    del comfy_base  # for the import of ComfyUI
    tensors = checkpoints.original_transformer(checkpoints.part_tensors("transformer"))
    packed = checkpoints.as_fp8(tensors, torch.float8_e4m3fn)
    expanded = {name: tensor.float() for name, tensor in packed.items()}
    states = []
    for name, content in (("packed", packed), ("expanded", expanded)):
        file = checkpoints.save(tmp_path / f"{name}.safetensors", content)
        model = ModelConfig(folder=str(BUNDLED), transformer=str(file), precision="fp32")
        run = tmp_path / name
        config = policy_config(run, conditions, judge, model=asdict(model), steps=2)
        models = load_fill_models(model, torch.device("cpu"))
        run_models = RunModels(models=models, judges=run_models_for(config).judges)
        train_policy(config, RecordingHost(), run_models)
        states.append(load_file(run / "checkpoint" / "state.safetensors"))
    packed_state, expanded_state = states
    for name, tensor in packed_state.items():
        torch.testing.assert_close(tensor, expanded_state[name], rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_make_the_update_of_one(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    """Under ``accelerate launch``, from the config that the node writes; ``batch`` is shared."""
    values: dict[str, Any] = {
        "steps": 1,
        "batch_size": 4,
        "micro_batch_size": 1,
        "algorithm": "dynamic",
    }
    single = policy_config(tmp_path / "one", conditions, judge, **values)
    two = policy_config(tmp_path / "two", conditions, judge, **values)
    train_policy(single, RecordingHost(), run_models_for(single))
    (tmp_path / "two.json").write_text(two.to_json())
    how = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    how += ["--dynamo_backend", "no", "--main_process_port", "0"]
    subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", *how),
            *("-m", "onereward", "train", str(tmp_path / "two.json")),
        ],
        cwd=tmp_path,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=300,
    )
    states = [load_file(tmp_path / n / "checkpoint/state.safetensors") for n in ("one", "two")]
    # After one step the optimiser's average is a tenth of the gradient that all have agreed on.
    averages = [
        torch.cat([t.flatten() for k, t in s.items() if "exp_avg." in k + "."]) for s in states
    ]
    assert averages[0].norm() > 0
    assert (averages[1] - averages[0]).norm() < 1e-3 * averages[0].norm()


_FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
import conftest
from pathlib import Path
import torch
from onereward.training.runs.directory import RunDirectory, TrainState
from onereward.training.runs.files import write_tensors
from onereward.training.policy.adapter_file import write_adapter
from onereward.training.policy.config import PolicyTrainConfig
folder = RunDirectory(PolicyTrainConfig.load(Path({config!r})))
folder.save(TrainState(step=1, seconds=0.0, tensors={{"x": torch.ones(1000)}}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (
    lambda: folder.save(TrainState(step=2, seconds=0.0, tensors={{"x": torch.ones(100_000)}})),
    lambda: write_adapter(folder.path / "a.safetensors",
                          {{"x.lora_A.weight": torch.ones(1, 100_000)}}, {{}}),
    lambda: write_tensors(folder.path / "prompt.safetensors", {{"x": torch.ones(100_000)}}),
):
    try:
        write()
    except OSError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limit on this system")
def test_a_full_disk_is_named_and_keeps_the_last_state(tmp_path: Path) -> None:
    config = policy_config(tmp_path / "run", tmp_path, tmp_path)
    (tmp_path / "config.json").write_text(config.to_json())
    script = _FULL_DISK.format(tests=str(ROOT / "tests"), config=str(tmp_path / "config.json"))
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    lines = process.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("cannot write") and "free some space" in line for line in lines)
    state = load_file(tmp_path / "run" / "checkpoint" / "state.safetensors")
    assert len(state["x"]) == 1000
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "checkpoint"}
