"""All weights spread over two processes (FSDP2 on gloo): the same run as in one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.training.policy.run import train_policy
from onereward.training.policy.sharding import make_sharding
from onereward.training.runs.distributed import Distributed
from support.judges import make_judge
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import RecordingHost

HOW = [
    *("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0"),
]
WEIGHTS = "diffusion_pytorch_model.safetensors"
# What `accelerate launch --use_fsdp --fsdp_version 2` sets; on the command line it needs a GPU.
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"}


def test_a_run_goes_on_in_two_processes_that_share_the_weights(tmp_path: Path) -> None:
    """From a checkpoint of one process, to the update, evaluation, result and checkpoint of one."""
    judge, conditions = make_judge(tmp_path / "judge"), make_conditions(tmp_path / "conditions")
    values: dict[str, Any] = {
        "batch_size": 4,
        "micro_batch_size": 1,
        "mode": "full",
        "learning_rate": 1e-4,
    }
    values |= {
        "algorithm": "dynamic",
        "gradient_checkpointing": "blocks",
        "steps": 1,
        "eval_every": 2,
    }
    values |= {"eval_conditions": 1, "kl_weight": 0.1}
    single = policy_config(tmp_path / "one", conditions, judge, **values)
    train_policy(single, RecordingHost(), run_models_for(single))
    two = replace(single, run_folder=str(tmp_path / "two"), steps=2)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "config.json").write_text(two.to_json())
    (tmp_path / "two.json").write_text(two.to_json())
    single = replace(single, steps=2)
    train_policy(single, RecordingHost(), run_models_for(single))
    process = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", *HOW),
            *("-m", "onereward", "train", str(tmp_path / "two.json")),
        ],
        cwd=tmp_path,
        env=os.environ | SHARDED | {"CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert process.stderr.count("all weights are spread over 2 processes (FSDP2)") == 2
    truth, state = (
        load_file(tmp_path / name / "checkpoint" / "state.safetensors") for name in ("one", "two")
    )
    before = load_file(tmp_path / "two" / "results" / "step-000002" / WEIGHTS)
    assert {k: t.shape for k, t in state.items()} == {k: t.shape for k, t in truth.items()}
    for kind in ("weights.", "ema.", "exp_avg", "exp_avg_sq"):
        actual, expected = (
            torch.cat([t.flatten() for k, t in sorted(s.items()) if kind in k and t.ndim])
            for s in (state, truth)
        )
        assert (actual - expected).norm() < 1e-3 * expected.norm(), kind
    result = load_file(tmp_path / "two" / "transformer" / WEIGHTS)
    for name, tensor in result.items():
        assert torch.equal(tensor, state[f"weights.{name}"]), name
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "batch_size is 3, but 2 processes share the weights"),
        ({"micro_batch_size": 2}, "micro_batch_size is 2, but weights that are spread"),
        ({"reference_pool": 2}, "reference_pool is 2, but weights that are spread"),
        ({"optimizer": "adamw_8bit"}, "optimizer is adamw_8bit, but weights that are spread"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_would_make_processes_wait_for_each_other_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"batch_size": 4, "micro_batch_size": 1, "mode": "full"}
    config = policy_config(tmp_path, tmp_path, tmp_path, **values | changes)
    assert make_sharding(config, Distributed()) is None
    for name, value in (SHARDED | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        make_sharding(config, Distributed())
    assert make_sharding(replace(config, mode="lora", batch_size=4), Distributed()) is None
