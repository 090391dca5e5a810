"""Runs: stopping changes nothing, another config is refused, and a full disk loses nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.lab.base_model.config import FillTrainConfig, VaeTrainConfig
from onereward.lab.base_model.export import export_pipeline, load_run
from onereward.lab.base_model.photographs import find_photographs
from onereward.lab.base_model.transformer import FillTrainer, train_fill
from onereward.lab.base_model.vae import train_vae
from onereward.training.runs import directory as run_module
from onereward.training.runs.directory import RunDirectory, TrainState, load_state
from onereward.training.runs.optimizer_state import flatten_optimizer, restore_optimizer


def _checkpoint(config: VaeTrainConfig | FillTrainConfig) -> TrainState:
    return load_state(Path(config.run_folder) / "checkpoint")


def _assert_same(first: TrainState, second: TrainState) -> None:
    assert first.step == second.step
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name


def _edit_stored_config(config: VaeTrainConfig | FillTrainConfig) -> None:
    (Path(config.run_folder) / "config.json").write_text(config.to_json())


def test_vae_run_that_stopped_equals_one_that_did_not(vae_config: VaeTrainConfig, tmp_path: Path):
    whole = replace(vae_config, run_folder=str(tmp_path / "whole"))
    train_vae(whole)
    stopped = replace(vae_config, stop_step=3)
    train_vae(stopped)
    _edit_stored_config(vae_config)
    folder = train_vae(vae_config)
    _assert_same(_checkpoint(whole), _checkpoint(vae_config))
    assert json.loads((folder / "config.json").read_text())["scaling_factor"] > 0


def test_fill_run_that_stopped_equals_one_that_did_not(
    fill_config: FillTrainConfig, tmp_path: Path
):
    fill_config = replace(fill_config, probe_weight=0.5)
    whole = replace(fill_config, run_folder=str(tmp_path / "whole"))
    train_fill(whole)
    train_fill(replace(fill_config, stop_step=3))
    _edit_stored_config(fill_config)
    train_fill(fill_config)
    _assert_same(_checkpoint(whole), _checkpoint(fill_config))


def test_learning_rate_zero_changes_no_weight(fill_config: FillTrainConfig):
    still = replace(fill_config, learning_rate=0.0, matrix_learning_rate=0.0, steps=2)
    train_fill(still)
    tensors = _checkpoint(still).tensors
    for name in (n for n in tensors if n.startswith("weights.")):
        start = tensors["ema." + name.removeprefix("weights.")]
        torch.testing.assert_close(tensors[name], start, atol=1e-6, rtol=0)


def test_a_stage_starts_from_another_runs_checkpoint(fill_config: FillTrainConfig, tmp_path: Path):
    train_fill(fill_config)
    first = Path(fill_config.run_folder) / "checkpoint"
    after = replace(
        fill_config, run_folder=str(tmp_path / "after"), init_from=str(first), learning_rate=0.0
    )
    after = replace(after, matrix_learning_rate=0.0, steps=2)
    train_fill(after)
    before, now = load_state(first).tensors, _checkpoint(after).tensors
    for name in (n for n in now if n.startswith("weights.")):
        assert torch.equal(before[name], now[name]), name


def test_a_stage_reinitializes_some_weights(fill_config: FillTrainConfig, tmp_path: Path):
    """And a probe that the earlier run did not have; all others come from that run."""
    train_fill(fill_config)
    first = Path(fill_config.run_folder) / "checkpoint"
    after = replace(
        fill_config,
        run_folder=str(tmp_path / "after"),
        init_from=str(first),
        reinitialize=("SelfAttention.q.weight", "relative_attention_bias.weight"),
        probe_weight=0.5,
        learning_rate=0.0,
        matrix_learning_rate=0.0,
        steps=2,
    )
    before, trainer = load_state(first), FillTrainer(after)
    fresh = {name: p.clone() for name, p in trainer.parameters.items()}
    trainer.restore(replace(before, step=0))
    renewed = {name for name in fresh if name.endswith(after.reinitialize)}
    assert len(renewed) == 3  # two layers share one bias
    for name, parameter in trainer.parameters.items():
        is_new = name in renewed or name.startswith("probe.")
        expected = fresh[name] if is_new else before.tensors[f"weights.{name}"]
        assert torch.equal(parameter, expected), name
    train_fill(after)
    assert not any(
        name.startswith("probe.") for name in load_run(Path(after.run_folder)).named_parameters()
    )


def test_a_stage_starts_from_exported_weights(fill_config: FillTrainConfig, tmp_path: Path):
    train_fill(fill_config)
    export_pipeline(load_run(Path(fill_config.run_folder)), tmp_path / "model")
    still = replace(fill_config, run_folder=str(tmp_path / "after"), learning_rate=0.0)
    still = replace(still, init_from=str(tmp_path / "model"), matrix_learning_rate=0.0, steps=2)
    train_fill(still)
    before, now = _checkpoint(fill_config).tensors, _checkpoint(still).tensors
    for name in (n for n in now if n.startswith("weights.")):
        average = before["ema." + name.removeprefix("weights.")]
        assert torch.equal(now[name], average.bfloat16().float()), name


def test_weights_of_another_width_are_refused(fill_config: FillTrainConfig, tmp_path: Path):
    train_fill(replace(fill_config, steps=2))
    start = str(Path(fill_config.run_folder) / "checkpoint")
    wider = replace(fill_config, run_folder=str(tmp_path / "wide"), width=64, init_from=start)
    with pytest.raises(ValueError, match=r"this config needs \[64, 64\]|needs \[64"):
        train_fill(wider)


def test_the_loss_falls_on_a_few_scenes(fill_config: FillTrainConfig):
    config = replace(
        fill_config, steps=60, decay_steps=0, warmup_steps=5, pool_blocks=1, refresh_every=1000
    )
    config = replace(config, batch_size=8, log_every=20)
    train_fill(config)
    lines = (Path(config.run_folder) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.8 * losses[0]


def test_resume_with_other_settings_names_them(vae_config: VaeTrainConfig):
    RunDirectory(vae_config)
    with pytest.raises(
        ValueError, match=r"other settings \(kl_weight: 2e-05 -> 1.0, seed: 0 -> 5\)"
    ):
        RunDirectory(replace(vae_config, seed=5, kl_weight=1.0))


class EightBit(torch.optim.Optimizer):
    """Momentum that keeps its state as bitsandbytes does: a table for all, nested, an int step."""

    def __init__(self, params: list[torch.nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.1})
        self.table = torch.linspace(-1, 1, 256)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if not self.state[parameter]:
                codes = torch.full(parameter.shape, 128, dtype=torch.uint8)
                self.state[parameter] = {"step": 0, "quant": {"codes": codes, "map": self.table}}
            state = self.state[parameter]
            assert isinstance(state["step"], int)
            state["step"] += 1
            quant = state["quant"]
            momentum = quant["map"][quant["codes"].long()] / 2 + parameter.grad / state["step"]
            quant["codes"] = (quant["map"] - momentum[..., None]).abs().argmin(-1).to(torch.uint8)
            parameter.data -= 0.1 * momentum


@pytest.mark.parametrize("kind", [EightBit, torch.optim.AdamW])
def test_an_optimiser_goes_on_from_a_checkpoint(kind: Any, vae_config: VaeTrainConfig):
    def stepped(optimizer: Any, times: int) -> None:
        for _ in range(times):
            for index, p in enumerate(optimizer.param_groups[0]["params"]):
                p.grad = torch.sin(p.detach() * (index + 1))
            optimizer.step()

    def fresh() -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.linspace(0, 1, 6)) for _ in range(2)]

    whole, resumed = fresh(), fresh()
    stepped(kind(whole), 5)
    first, folder = kind(resumed), RunDirectory(vae_config)
    stepped(first, 2)
    folder.save(TrainState(step=2, seconds=0.0, tensors=flatten_optimizer(first, "adam")))
    stored, second = folder.load(), kind(resumed)
    assert stored is not None
    if kind is torch.optim.AdamW:  # the keys of checkpoints that exist already
        names = {f"adam.{i}.{n}" for i in (0, 1) for n in ("step", "exp_avg", "exp_avg_sq")}
        assert stored.tensors.keys() == names
    restore_optimizer(second, stored.tensors, "adam")
    stepped(second, 3)
    for parameter, expected in zip(resumed, whole, strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize("torn", ["", "{", '{"step": 6, "loss": 1.0}'])
def test_a_run_killed_before_its_first_checkpoint_logs_every_step_once(
    fill_config: FillTrainConfig, torn: str
):
    metrics = Path(fill_config.run_folder) / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n' + torn)
    train_fill(fill_config)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [2, 4, 6]


def test_a_line_without_an_end_does_not_swallow_the_next(vae_config: VaeTrainConfig):
    folder = RunDirectory(vae_config)
    metrics = Path(vae_config.run_folder) / "metrics.jsonl"
    metrics.write_text('{"step": 2}\n{"step": 4}')
    folder.truncate_metrics(4)
    folder.append_metrics({"step": 6})
    assert [record["step"] for record in folder.read_metrics()] == [2, 4, 6]


def test_full_disk_keeps_the_last_checkpoint(
    vae_config: VaeTrainConfig, monkeypatch: pytest.MonkeyPatch
):
    folder = RunDirectory(vae_config)
    good = TrainState(step=1, seconds=2.0, tensors={"x": torch.ones(3)})
    folder.save(good)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "save_file", full)
    with pytest.raises(OSError, match="free some space and run again"):
        folder.save(replace(good, step=2))
    stored = folder.load()
    assert stored is not None
    assert stored.step == 1


def test_interrupted_rename_leaves_the_old_checkpoint(
    vae_config: VaeTrainConfig, monkeypatch: pytest.MonkeyPatch
):
    folder = RunDirectory(vae_config)
    folder.save(TrainState(step=1, seconds=0.0, tensors={"x": torch.ones(1)}))
    rename, calls = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if len(calls) == 2:  # the old one is away, the new one not yet in place
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save(TrainState(step=2, seconds=0.0, tensors={"x": torch.ones(1)}))
    stored = folder.load()
    assert stored is not None
    assert stored.step == 1


def test_missing_photographs_say_what_to_do(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="set photo_share to 0 to train without"):
        find_photographs((str(tmp_path),), is_held_out=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_says_what_to_do(fill_config: FillTrainConfig, vae_config: VaeTrainConfig):
    with pytest.raises(RuntimeError, match="set device to cpu"):
        train_fill(replace(fill_config, device="cuda"))
    with pytest.raises(RuntimeError, match="set device to cpu"):
        train_vae(replace(vae_config, device="cuda"))


def test_not_finite_loss_stops_the_run(fill_config: FillTrainConfig):
    with pytest.raises(RuntimeError, match=r"loss of step [0-9]+ is not finite"):
        train_fill(replace(fill_config, learning_rate=1e30, warmup_steps=1, steps=6))
