"""How a policy's run begins, and again: what it refuses, and what an earlier try has left."""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.reward.preference import split_of
from onereward.training.data.conditions import FILE_NAME, EditDataset
from onereward.training.policy.config import PolicyTrainConfig
from onereward.training.policy.run import PolicyResult, train_policy
from onereward.training.runs import directory as saving
from onereward.training.runs.directory import RunDirectory, saved_step
from support.bundled_models import bundled_models
from support.judges import make_judge
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import CancelledError, RecordingHost


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"))


def train(config: PolicyTrainConfig, host: RecordingHost | None = None) -> PolicyResult:
    return train_policy(config, host or RecordingHost(), run_models_for(config))


def test_a_run_killed_before_its_first_checkpoint_says_every_step_once(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    result = train(policy_config(tmp_path, conditions, judge, steps=2, batch_size=1))
    assert [record["step"] for record in result.metrics] == [1, 2]
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]


def test_a_run_without_a_checkpoint_frees_its_name(
    judge: Path, conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it has made by its settings is made anew by others."""
    blind = policy_config(tmp_path / "run", conditions, judge, optimizer="adamw_8bit", steps=1)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match="needs the package bitsandbytes"):
        train(blind)
    stale = [tmp_path / "run" / name / "stale" for name in ("prompts", "references", "results")]
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text("made by the settings of before")
    with pytest.raises(ImportError, match="needs the package bitsandbytes"):
        train(replace(blind, steps=2))  # which changes no weight
    assert all(path.is_file() for path in stale)
    sound = replace(blind, optimizer="adamw")
    assert train(sound).step == 1
    assert not any(path.exists() for path in stale)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        train(replace(sound, rank=8, steps=2))


def test_a_run_without_evaluation_is_announced_before_its_first_step(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    train_only = tmp_path / "conditions"
    shutil.copytree(conditions, train_only)
    lines = (train_only / FILE_NAME).read_text().splitlines(keepends=True)
    train_lines = [line for line in lines if split_of(json.loads(line)["name"]) == "train"]
    (train_only / FILE_NAME).write_text("".join(train_lines))
    message = "this run is not evaluated"
    for number, (folder, eval_every) in enumerate(
        [(train_only, 9), (train_only, 0), (conditions, 9)]
    ):
        host, run = RecordingHost(), tmp_path / str(number)
        config = policy_config(run, folder, judge, eval_every=eval_every, max_minutes=1e-12)
        result = train(config, host)
        assert result.step == 0
        is_blind = number == 0
        assert any(line.startswith(message) for line in host.lines) == is_blind
        assert any(note.startswith(message) for note in result.notes) == is_blind


def test_a_run_whose_time_is_up_says_how_far_it_came(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    config = policy_config(tmp_path, conditions, judge, steps=2, batch_size=1, max_minutes=1e-12)
    host = RecordingHost()
    result = train(config, host)
    assert result.notes[-1] == "the time is up after 0 of 2 steps; run again to go on"
    assert host.lines[-1] == result.notes[-1]
    assert not any("time is up" in note for note in train(replace(config, max_minutes=9)).notes)


def test_a_task_without_conditions_is_left_out_and_named(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    some = tmp_path / "conditions"
    shutil.copytree(conditions, some)
    lines = (some / FILE_NAME).read_text().splitlines(keepends=True)
    remaining_lines = [line for line in lines if json.loads(line)["task"] not in ("text", "extend")]
    (some / FILE_NAME).write_text("".join(remaining_lines))
    host = RecordingHost()
    config = policy_config(tmp_path / "run", some, judge, steps=1, batch_size=1, weight_extend=0.0)
    train(config, host)
    notes = [line for line in host.lines if "no conditions to learn from" in line]
    assert notes == ["text is left out: no conditions to learn from"]  # extend was not asked for


def test_bad_conditions_and_judges_are_named(judge: Path, conditions: Path, tmp_path: Path) -> None:
    only_fill = {"weight_extend": 0.0, "weight_remove": 0.0, "weight_text": 0.0}
    remove_only = tmp_path / "remove"
    dataset = EditDataset(conditions)
    remove_only.mkdir()
    for condition in dataset.conditions:
        for file in (condition.image_file_name, condition.mask_file_name):
            (remove_only / file).write_bytes((conditions / file).read_bytes())
    lines = (conditions / "conditions.jsonl").read_text().splitlines()
    remove_lines = [line for line in lines if '"remove"' in line]
    (remove_only / "conditions.jsonl").write_text("\n".join(remove_lines) + "\n")
    with pytest.raises(ValueError, match="no condition to learn from"):
        train(policy_config(tmp_path / "a", remove_only, judge, **only_fill))
    for line in remove_lines:
        (remove_only / json.loads(line)["mask_file_name"]).unlink()
    with pytest.raises(ValueError, match=r"cannot be read as an image"):
        train(policy_config(tmp_path / "b", remove_only, judge))


def test_a_folder_that_cannot_be_written_leaves_the_model(
    judge: Path, conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    transformer = bundled_models().transformer.module
    names = [name for name, _ in transformer.named_parameters()]
    monkeypatch.setattr(RunDirectory, "truncate_metrics", fail)
    with pytest.raises(OSError, match="No space left"):
        train(policy_config(tmp_path, conditions, judge))
    assert [name for name, _ in transformer.named_parameters()] == names


def test_a_run_cancelled_anywhere_comes_to_the_same(
    judge: Path, conditions: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"steps": 3, "batch_size": 2, "eval_every": 2, "eval_conditions": 1}
    counting = RecordingHost()
    train(policy_config(tmp_path / "whole", conditions, judge, **values), counting)
    draw = random.Random(0)
    for number in range(3):
        config = policy_config(tmp_path / str(number), conditions, judge, **values)
        with pytest.raises(CancelledError):
            train(config, RecordingHost(cancel_at_call=draw.randint(1, counting.calls)))
        train(config)
        assert_same_state(tmp_path / str(number), tmp_path / "whole")


def test_a_cancel_while_saving_leaves_the_state_before(
    judge: Path, conditions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"steps": 2, "batch_size": 1, "checkpoint_minutes": 0.0}
    train(policy_config(tmp_path / "whole", conditions, judge, **values))
    config = policy_config(tmp_path / "parts", conditions, judge, **values)
    write, saved = saving.save_file, []

    def torn(tensors: Any, path: Path) -> None:
        write(tensors, path)
        saved.extend([path] if path.name == "state.safetensors" else [])
        if len(saved) > 1:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", torn)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert saved_step(tmp_path / "parts") == 1
    train(config)
    assert_same_state(tmp_path / "parts", tmp_path / "whole")


def assert_same_state(run: Path, expected_run: Path) -> None:
    tensors, expected = (
        load_file(r / "checkpoint" / "state.safetensors") for r in (run, expected_run)
    )
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name
