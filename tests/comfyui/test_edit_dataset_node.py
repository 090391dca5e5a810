"""The node that makes data sets, in the real server."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from onereward.training.data.conditions import EditDataset
from support import machine
from support.client import ComfyClient, Graph
from support.edits import TOY_TEST
from support.graph import GraphBuilder, output
from support.refusals import refused
from support.server import ComfyServer
from support.workflows import example_image


@pytest.fixture
def images(comfyui: ComfyServer) -> Path:
    """Two images with transparent areas in a folder below ComfyUI's input folder."""
    folder = comfyui.base_directory / "input" / "holidays" / "2026"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        example_image().rotate(90 * (name == "b")).save(folder / f"{name}.png")
    return folder


def graph(**inputs: Any) -> Graph:
    g = GraphBuilder()
    values = {"name": "mine", "images": "holidays/2026", "task": "remove"}
    dataset = g.add("OneRewardEditDataset", **values | inputs)
    g.add("PreviewImage", images=output(dataset, 1))
    return g.graph


def test_a_folder_becomes_conditions(client: ComfyClient, comfyui: ComfyServer, images: Path):
    spec = client.object_info("OneRewardEditDataset")["input"]["required"]["images"]
    assert "holidays/2026" in spec[1].get("options", spec[0])
    job = client.run(graph())
    assert job.succeeded, job.error
    assert len(job.images()) == 1
    dataset = EditDataset(comfyui.base_directory / "output" / "onereward" / "datasets" / "mine")
    assert dataset.summary() == "2 conditions (remove 2)"
    client.run(graph())
    assert client.run(graph()).executed_nodes == []
    example_image().rotate(180).save(images / "a.png")
    assert "1" in client.run(graph()).executed_nodes


@pytest.mark.parametrize("images", [TOY_TEST, "onereward/datasets/toy-test [output]"])
def test_a_data_set_is_taken_as_it_is(images: str, client: ComfyClient, comfyui: ComfyServer):
    bundled = machine.ROOT / "assets" / "examples" / "toy-test"
    folder = comfyui.base_directory / "output" / "onereward" / "datasets" / "toy-test"
    shutil.copytree(bundled, folder, dirs_exist_ok=True)
    job = client.run(graph(name="unused", images=images, task="all"))
    assert job.succeeded, job.error
    assert not (folder.parent / "unused").exists()
    (summary,) = job.outputs["1"]["text"]
    assert summary.startswith("4 conditions (fill 1, extend 1, remove 1, text 1)")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"name": "../x"}, ["name is '../x', but up to 100 letters"]),
        ({"name": ""}, ["name is ''"]),
        ({"images": "../models"}, ["../models"]),
        ({"images": "nowhere"}, ["nowhere"]),
        ({"task": "paint"}, ["task", "'paint'", "fill"]),
        ({"task": "fill"}, ["prompt is empty"]),
        ({"task": "text"}, ["text is empty"]),
    ],
    ids=["escaping", "unnamed", "outside", "missing", "task", "prompt", "text"],
)
def test_bad_input_gets_one_sentence(
    client: ComfyClient, images: Path, inputs: dict[str, Any], words: list[str]
):
    refused(client, graph(**inputs), *words)


def test_a_damaged_image_is_named(client: ComfyClient, comfyui: ComfyServer):
    folder = comfyui.base_directory / "input" / "damaged"
    folder.mkdir()
    whole = io.BytesIO()
    Image.new("RGB", (64, 64)).save(whole, format="PNG")
    (folder / "half.png").write_bytes(whole.getvalue()[:50])
    refused(
        client,
        graph(images="damaged", masks="random"),
        "half.png cannot be read as an image",
    )
