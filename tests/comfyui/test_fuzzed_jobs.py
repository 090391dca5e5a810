"""Malformed jobs over HTTP: success or one sentence in time, and the server lives."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from support.client import ApiError, ComfyClient, Graph
from support.node_fuzz import (
    CONSTANTS,
    EMITTED,
    Emitted,
    FuzzGraph,
    Outcome,
    error_outcome,
    inputs_of,
    refusal_outcome,
)
from support.server import ComfyServer

NUM_JOBS = int(os.environ.get("FUZZ_JOBS", "60"))
LIMIT_S = 60
SLOW = ("OneRewardEvaluate", "OneRewardTrain", "OneRewardTrainJudge", "OneRewardJudgeReport")
"""Valid jobs of these take seconds."""


def run(client: ComfyClient, graph: Graph, names: tuple[str, ...]) -> Outcome:
    try:
        job = client.run(graph, timeout_s=LIMIT_S)
    except ApiError as refused:
        return refusal_outcome(refused.body, names)
    errors = job.messages("execution_error")
    return error_outcome(errors[0], names) if errors else Outcome(kind="success")


def test_malformed_jobs_leave_the_server_alive(comfyui: ComfyServer, client: ComfyClient):
    info = client.object_info()
    draw = random.Random(int(os.environ.get("FUZZ_SEED", "0")))
    nodes = sorted(n for n in info if n.startswith("OneReward") and n not in SLOW)
    failures: list[Any] = []
    kinds: list[str] = []
    for _ in range(NUM_JOBS):
        node = draw.choice(nodes)
        name = draw.choice(sorted(inputs_of(info, node)))
        constant, kind = draw.choice(sorted(CONSTANTS)), draw.choice(EMITTED)
        is_constant = draw.random() < 0.5
        value = CONSTANTS[constant] if is_constant else Emitted(kind)
        graph = FuzzGraph(info).job(node, {name: value})
        outcome = run(client, graph, tuple(inputs_of(info, node)))
        kinds.append(outcome.kind)
        if outcome.problems:
            failures.append((node, name, constant if is_constant else kind, outcome))
    assert failures == []
    assert kinds.count("refused") > NUM_JOBS / 2
    assert comfyui.is_running()
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("diffusion_models", "flux-fill-onereward.safetensors"),
        ("vae", "ae-of-flux.safetensors"),
        ("diffusers/pipe", "model_index.json"),
        ("onereward/pipe", "config.json"),
    ],
)
def test_a_pipe_in_a_model_folder_stops_no_list(
    folder: str, name: str, comfyui: ComfyServer, client: ComfyClient
):
    path: Path = comfyui.base_directory / "models" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    try:
        assert "OneRewardLoadModel" in client.object_info()
        assert client.object_info("OneRewardLoadJudge")["name"] == "OneRewardLoadJudge"
    finally:
        path.unlink()
