"""Policy training with real models: relay, reference, resume, release, and stops at any moment."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.fill.image.canvas import make_jobs
from onereward.fill.memory.plan import NotEnoughMemory
from onereward.fill.sampling.guidance import make_velocity
from onereward.fill.sampling.sampler import predict_x0
from onereward.training.data.conditions import FILE_NAME, EditDataset
from onereward.training.objectives import reward_loss
from onereward.training.policy.adapter_file import read_about
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.loop import PolicyTrainer
from onereward.training.policy.prompts import PromptStore
from onereward.training.policy.rewards import Decoder, JudgeReward
from onereward.training.policy.run import ADAPTER, PolicyRun, train_policy
from onereward.training.policy.weights import Policy
from onereward.training.runs.directory import RunDirectory, saved_step
from onereward.training.runs.distributed import Distributed
from support.bundled_models import bundled_models
from support.judges import make_judge
from support.machine import ROOT
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import CancelledError, RecordingHost


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"))


def train(config: PolicyTrainConfig, host: Any = None) -> dict[str, torch.Tensor]:
    train_policy(config, host or RecordingHost(), run_models_for(config))
    return load_file(Path(config.run_folder) / "checkpoint" / "state.safetensors")


def metrics_of(config: PolicyTrainConfig) -> list[dict[str, float]]:
    lines = (Path(config.run_folder) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        record.pop("seconds")
    return records


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def test_relay_equals_one_graph(judge: Path, conditions: Path, tmp_path: Path) -> None:
    """d loss / d weights in two halves is what autograd gives from images to weights at once."""
    config = policy_config(
        tmp_path, conditions, judge, true_cfg=2.0, gradient_checkpointing="blocks"
    )
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    trainer, policy = run.trainer, run.trainer.policy
    # A fresh LoRA starts at zero, where half of its gradients vanish.
    generator = torch.Generator().manual_seed(5)
    for name, p in policy.parameters.items():
        if ".lora_B." in name:
            policy.masters[name].data.normal_(0, 0.02, generator=generator)
            p.data.copy_(policy.masters[name])
    gradients: dict[str, torch.Tensor] = {}
    policy.update = lambda rate: gradients.update(  # type: ignore[method-assign]
        {n: m.grad.clone() for n, m in policy.masters.items() if m.grad is not None}
    )
    config_clip = trainer.config.max_grad_norm
    try:
        trainer.train_step()
        trainer.step = 0
        batches, stop = trainer.source.draw(0)
        losses = []
        for batch in batches:
            with torch.no_grad(), policy.as_reference():
                reference = trainer.rollout(batch, batch.reference_noise, 3)
            with torch.no_grad():
                x = trainer.rollout(batch, batch.noise, stop)
            velocity = make_velocity(policy.module, batch.conditioning, batched=False)
            x0 = predict_x0(x, batch.sigmas[stop], velocity(x, batch.sigmas[stop]))
            reward = trainer.reward
            assert isinstance(reward, JudgeReward)
            candidates = reward.decoder.images(batch, x0)
            references = reward.decoder.images(batch, reference)
            answers = reward.probabilities(batch, candidates, references)
            losses += [reward_loss(p, config.reward_cap) for p in answers]
        torch.stack(losses).mean().backward()
        norm = torch.cat([p.grad.flatten() for p in policy.parameters.values()]).norm()  # type: ignore[union-attr]
        scale = min(1.0, config_clip / float(norm))
        for name, p in policy.parameters.items():
            assert p.grad is not None
            difference = (gradients[name] - scale * p.grad).norm()
            assert difference < 1e-3 * scale * p.grad.norm() + 1e-9, name
    finally:
        policy.release()


@pytest.mark.parametrize(("mode", "algorithm"), [("lora", "fixed"), ("full", "dynamic")])
def test_stop_and_resume_equals_no_stop(
    judge: Path, conditions: Path, tmp_path: Path, mode: str, algorithm: str
) -> None:
    pool = 2 if algorithm == "fixed" else 0
    settings: dict[str, Any] = {
        "mode": mode,
        "algorithm": algorithm,
        "learning_rate": 1e-3,
        "kl_weight": 0.1,
    }
    settings |= {"reference_pool": pool}
    whole = policy_config(tmp_path / "whole", conditions, judge, **settings)
    parts = policy_config(tmp_path / "parts", conditions, judge, **settings, stop_step=1)
    again = policy_config(tmp_path / "parts", conditions, judge, **settings)
    expected = train(whole)
    train(parts)
    assert_same(train(again), expected)
    assert metrics_of(again) == metrics_of(whole)
    assert [record["step"] for record in metrics_of(whole)] == [1, 2, 3]


def test_a_run_goes_on_with_nothing_but_what_it_began_with(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    """The same settings name other weights: half a run of each would be neither."""
    own_judge, dataset = tmp_path / "own", tmp_path / "conditions"
    shutil.copytree(judge, own_judge)
    shutil.copytree(conditions, dataset)
    weights, metadata = own_judge / "model.safetensors", dataset / FILE_NAME
    config = policy_config(tmp_path, dataset, own_judge, stop_step=1)
    train(config)
    state = Path(config.run_folder) / "checkpoint" / "state.safetensors"
    first, judge_bytes, list_bytes = (path.read_bytes() for path in (state, weights, metadata))
    other_judge = judge_bytes[:-1] + bytes([judge_bytes[-1] ^ 1])
    for path, data, name in (
        (weights, other_judge, r"judge 1 \(own\)"),
        (metadata, list_bytes + b"\n", "the list of conditions in .*"),
    ):
        before = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} changed; choose another run folder"):
            train(replace(config, stop_step=2))
        path.write_bytes(before)
    assert state.read_bytes() == first
    train(replace(config, stop_step=0))  # the old files are back, written later
    weights.write_bytes(other_judge)
    with pytest.raises(ValueError, match="changed"):  # nor is it taken for done
        train(replace(config, stop_step=0))


def test_cancel_saves_and_more_steps_go_on(judge: Path, conditions: Path, tmp_path: Path) -> None:
    expected = train(policy_config(tmp_path / "whole", conditions, judge))
    counting = RecordingHost()
    train(policy_config(tmp_path / "one", conditions, judge, steps=1), counting)
    config = policy_config(tmp_path / "parts", conditions, judge, steps=2)
    with pytest.raises(CancelledError):
        train(config, RecordingHost(cancel_at_call=counting.calls + 4))
    state = json.loads((tmp_path / "parts" / "checkpoint" / "state.json").read_text())
    assert state["step"] == 1
    assert (tmp_path / "parts" / ADAPTER).is_file()
    train(config)
    more = policy_config(tmp_path / "parts", conditions, judge, steps=3)
    assert_same(train(more), expected)


def test_an_evaluation_that_a_cancel_cut_short_is_made_up_for(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    settings = {"eval_every": 1, "eval_conditions": 2, "stop_on_drift": False, "steps": 2}
    whole = policy_config(tmp_path / "whole", conditions, judge, **settings)
    expected = train(whole)
    counting = RecordingHost()
    train(policy_config(tmp_path / "one", conditions, judge, **settings | {"steps": 1}), counting)
    config = policy_config(tmp_path / "parts", conditions, judge, **settings)
    with pytest.raises(CancelledError):
        train(config, RecordingHost(cancel_at_call=counting.calls - 2))
    (line,) = metrics_of(config)
    assert line["step"] == 1
    assert "eval" not in line
    assert_same(train(config), expected)
    assert metrics_of(config) == metrics_of(whole)
    for name in ("best", "step-000001", "step-000002"):
        tensors, expected_tensors = (
            load_file(tmp_path / run / "results" / f"{name}.safetensors")
            for run in ("parts", "whole")
        )
        assert_same(tensors, expected_tensors)


def test_a_kill_before_the_result_is_written_does_not_pass_for_the_end(
    judge: Path, conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(policy_config(tmp_path, conditions, judge, steps=1))
    more = policy_config(tmp_path, conditions, judge, steps=2)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PolicyRun, "export", die)
        with pytest.raises(KeyboardInterrupt):
            train(more)
    assert saved_step(tmp_path) == 2
    assert read_about(tmp_path / ADAPTER)["step"] == 1
    train(more)
    assert read_about(tmp_path / ADAPTER)["step"] == 2


@pytest.mark.parametrize("where", ["prepare", "train_step"])
def test_too_little_memory_says_what_to_change(
    judge: Path, conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    config = policy_config(tmp_path, conditions, judge, steps=2)
    train(policy_config(tmp_path, conditions, judge, steps=1))
    with monkeypatch.context() as patch:
        patch.setattr(PromptStore if where == "prepare" else PolicyTrainer, where, full)
        with pytest.raises(
            NotEnoughMemory, match=r"smaller target_size .*, micro_batch_size 1 .now 2"
        ):
            train(config)
    assert saved_step(tmp_path) == 1
    train(config)


def test_gradients_of_a_step_that_ran_out_of_memory_are_given_back(
    judge: Path, conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(policy: Policy) -> None:
        assert any(p.grad is not None for p in policy.parameters.values())
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Policy, "accumulate_gradients", full)
    with pytest.raises(NotEnoughMemory):
        train(policy_config(tmp_path, conditions, judge, mode="full", batch_size=1))
    assert all(p.grad is None for p in bundled_models().transformer.module.parameters())


def test_cancel_is_heard_between_any_two_images(judge: Path, conditions: Path) -> None:
    """Decoding and encoding are model calls too; a large micro-batch makes many."""
    polled: list[str] = []
    decoder = Decoder(bundled_models(), True, lambda: polled.append("decode"))
    config = policy_config(Path("unused"), conditions, judge)
    channels = bundled_models().vae_config["latent_channels"]
    jobs = [
        make_jobs(
            EditDataset(conditions).request(condition),
            bundled_models(),
            config.settings(bundled_models().recipe),
        )[0]
        for condition in EditDataset(conditions).conditions[:3]
    ]
    batch: Any = SimpleNamespace(jobs=jobs, size=(16, 16))
    with torch.no_grad():
        decoder.images(batch, torch.zeros(3, 64, 4 * channels))
    assert polled == ["decode"] * 3


def test_another_setting_is_refused_by_name(judge: Path, conditions: Path, tmp_path: Path) -> None:
    RunDirectory(policy_config(tmp_path, conditions, judge))
    with pytest.raises(ValueError, match="rank: 4 -> 8"):
        RunDirectory(policy_config(tmp_path, conditions, judge, rank=8, steps=9))


def test_the_model_is_left_as_it_was_found(judge: Path, conditions: Path, tmp_path: Path) -> None:
    transformer = bundled_models().transformer.module
    before = {name: p.detach().clone() for name, p in transformer.named_parameters()}
    for mode in ("lora", "full"):
        train(policy_config(tmp_path / mode, conditions, judge, mode=mode, steps=1))
        after = dict(transformer.named_parameters())
        assert after.keys() == before.keys()
        for name, p in after.items():
            assert torch.equal(p, before[name]), name
            assert not p.requires_grad


def test_a_run_that_cannot_begin_leaves_the_model_too(
    judge: Path, conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer: Any = bundled_models().transformer.module
    names = [name for name, _ in transformer.named_parameters()]
    train(policy_config(tmp_path / "a", conditions, judge, steps=1))
    changes = {"init_from": str(tmp_path / "a" / "checkpoint"), "rank": 8}
    with pytest.raises(ValueError, match="the checkpoint is of another model or adapter"):
        train(policy_config(tmp_path / "b", conditions, judge, **changes))
    assert [name for name, _ in transformer.named_parameters()] == names
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match="needs the package bitsandbytes"):
        train(policy_config(tmp_path / "c", conditions, judge, optimizer="adamw_8bit"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="needs the package tensorboard"):
        train(policy_config(tmp_path / "d", conditions, judge, tensorboard=True))
    assert [name for name, _ in transformer.named_parameters()] == names
    assert not any(p.requires_grad for p in transformer.parameters())


def test_fixed_reference_is_the_start(judge: Path, conditions: Path, tmp_path: Path) -> None:
    """With the adapter off the trained model is bit for bit the model before."""
    config = policy_config(tmp_path, conditions, judge)
    transformer: Any = bundled_models().transformer.module
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    (batch, *_), _ = run.trainer.source.draw(0)
    try:
        run.trainer.train_step()
        with torch.no_grad():
            x_policy = run.trainer.rollout(batch, batch.noise, 2)
            with run.trainer.policy.as_reference():
                reference = run.trainer.rollout(batch, batch.noise, 2)
    finally:
        run.trainer.policy.release()
    with torch.no_grad():
        velocity = make_velocity(transformer, batch.conditioning)
        x = batch.noise
        for i in range(2):
            x = x + (batch.sigmas[i + 1] - batch.sigmas[i]) * velocity(x, batch.sigmas[i])
    assert torch.equal(reference, x)
    assert not torch.allclose(x_policy, x, atol=1e-4)


def test_micro_batches_change_no_result(judge: Path, conditions: Path, tmp_path: Path) -> None:
    whole = train(policy_config(tmp_path / "a", conditions, judge, micro_batch_size=3, steps=1))
    single = train(policy_config(tmp_path / "b", conditions, judge, micro_batch_size=1, steps=1))
    for name, tensor in single.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=1e-5, msg=name)


def test_pooled_references_are_those_of_their_seeds(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    config = policy_config(tmp_path, conditions, judge, reference_pool=1, steps=2)
    train(config)
    run = PolicyRun(config, RecordingHost(), run_models_for(config), Distributed())
    try:
        with torch.no_grad(), run.trainer.policy.as_reference():
            (batch, *_), _ = run.trainer.source.draw(0)
            rollouts = run.trainer.rollout(batch, batch.reference_noise, 3)
    finally:
        run.trainer.policy.release()
    for sample, latents in zip(batch.samples, rollouts, strict=True):
        assert sample.reference_seed == 0
        stored = load_file(tmp_path / "references" / sample.condition.name / "0.safetensors")
        torch.testing.assert_close(stored["latents"], latents, rtol=1e-4, atol=1e-5)


_SAVES_FOREVER = """
import sys
sys.path.insert(0, {tests!r})
import conftest
from pathlib import Path
import torch
from onereward.training.runs.directory import RunDirectory, TrainState
from onereward.training.policy.config import PolicyTrainConfig
config = PolicyTrainConfig.load(Path({config!r}))
folder = RunDirectory(config)
step = 0
while True:
    step += 1
    folder.save(TrainState(step=step, seconds=0.0, tensors={{"x": torch.full((200_000,), step)}}))
    print(step, flush=True)
"""


def test_kill_in_mid_save_leaves_a_whole_state(tmp_path: Path) -> None:
    config = policy_config(tmp_path / "run", tmp_path, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    script = _SAVES_FOREVER.format(tests=str(ROOT / "tests"), config=str(path))
    draw = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        time.sleep(draw.uniform(0, 0.02))  # any moment will do: what is tested holds at each
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = RunDirectory(config).load()
        assert state is not None
        assert state.step >= int(lines[-1])
        assert (state.tensors["x"] == state.step).all()
