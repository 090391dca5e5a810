"""What runs again when something changes, and what does not."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from support.bundled_models import BUNDLED
from support.client import ComfyClient, Graph
from support.edits import EditGraph
from support.server import ComfyServer


@pytest.fixture
def graph(example: str) -> Callable[..., Graph]:
    def build(task: str = "Fill", model: str | None = None, **inputs: Any) -> Graph:
        g = EditGraph()
        loader = g.add_model(**({"model": model} if model else {}))
        g.show(g.add_edit(task, g.add("LoadImage", image=example), model=loader, **inputs))
        return g.graph

    return build


def classes(graph: Graph, nodes: list[str]) -> set[str]:
    return {graph[node]["class_type"] for node in nodes}


def test_the_same_graph_is_served_from_the_cache(client: ComfyClient, graph: Callable[..., Graph]):
    assert client.run(graph(seed=101)).succeeded
    again = client.run(graph(seed=101))
    assert again.succeeded
    assert again.executed_nodes == []


def test_another_seed_encodes_and_reads_nothing_again(
    client: ComfyClient, comfyui: ComfyServer, graph: Callable[..., Graph]
):
    first = graph(seed=102, prompt="a green square")
    assert client.run(first).succeeded
    log = len(comfyui.log())
    second = graph(seed=103, prompt="a green square")
    job = client.run(second)
    assert classes(second, job.executed_nodes) == {"OneRewardFill", "PreviewImage"}
    new = comfyui.log()[log:]
    assert "fill: 1 images" in new
    for sign in ("encoded", "Requested to load"):
        assert sign not in new


def test_another_prompt_encodes_only_the_prompt(
    client: ComfyClient, comfyui: ComfyServer, graph: Callable[..., Graph]
):
    assert client.run(graph(seed=104, prompt="a blue circle")).succeeded
    log = len(comfyui.log())
    assert client.run(graph(seed=104, prompt="a yellow circle")).succeeded
    new = comfyui.log()[log:]
    assert "encoded 1 prompts" in new
    assert "encoded an image" not in new


def test_edits_share_the_model_between_workflows(client: ComfyClient, graph: Callable[..., Graph]):
    assert client.run(graph(seed=105)).succeeded
    removal = graph("Remove", seed=105)
    assert "OneRewardLoadModel" not in classes(removal, client.run(removal).executed_nodes)


def test_the_last_model_stays_while_other_workflows_run(
    client: ComfyClient, comfyui: ComfyServer, graph: Callable[..., Graph], example: str
):
    first = graph(seed=108, prompt="a green circle")
    assert client.run(first).succeeded
    for n in range(2):  # ComfyUI forgets the loader's output meanwhile
        second = EditGraph()
        image = second.add("LoadImage", image=example)
        second.show(second.add("ImageScaleBy", image=image, upscale_method="area", scale_by=1 + n))
        assert client.run(second.graph).succeeded
    log = len(comfyui.log())
    again = graph(seed=109, prompt="a green circle")
    job = client.run(again)
    assert job.succeeded, job.error
    new = comfyui.log()[log:]
    assert "fill: 1 images" in new
    for sign in ("encoded", "Requested to load"):
        assert sign not in new


def test_a_changed_file_is_read_again(
    client: ComfyClient, comfyui: ComfyServer, graph: Callable[..., Graph]
):
    folder = comfyui.base_directory / "models" / "onereward" / "changing"
    shutil.copytree(BUNDLED, folder)
    job = graph(model="changing", seed=106)
    assert client.run(job).succeeded
    assert client.run(job).executed_nodes == []
    os.utime(folder / "vae" / "config.json")
    assert "OneRewardLoadModel" in classes(job, client.run(job).executed_nodes)


def test_free_unloads_the_model_and_the_next_job_loads_it(
    client: ComfyClient, comfyui: ComfyServer, graph: Callable[..., Graph]
):
    assert client.run(graph(seed=107)).succeeded
    log = len(comfyui.log())
    client.free()
    assert client.run(graph(seed=107)).succeeded
    new = comfyui.log()[log:]
    for sign in ("Requested to load", r"encoded \d prompts", "encoded an image"):
        assert re.search(sign, new)
