"""Nothing depends on the bundled model's sizes: the published ones run, cut to one layer each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.client import ComfyClient
from support.edits import EditGraph
from support.published import write_published
from support.server import ComfyServer
from support.workflows import example_image

NAME = "FLUX.1-Fill-dev"
TRANSFORMER = "flux.1-fill-dev-OneReward-transformer"
SIDE = 128

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(comfyui: ComfyServer) -> Iterator[Path]:
    """The base model's folder, with OneReward's transformer beside it."""
    folder = comfyui.base_directory / "models" / "diffusers" / NAME
    write_published(folder)
    separate = folder.parent / TRANSFORMER
    separate.symlink_to(folder / "transformer", target_is_directory=True)
    yield folder
    separate.unlink()
    shutil.rmtree(folder)


def test_it_is_sharded_as_published(published: Path):
    assert len(list((published / "transformer").glob("*-of-*.safetensors"))) > 1
    assert len(list((published / "text_encoder_2").glob("*-of-*.safetensors"))) > 1


def test_it_is_listed(client: ComfyClient, published: Path):
    required = client.object_info("OneRewardLoadModel")["input"]["required"]
    assert NAME in str(required["model"])
    assert TRANSFORMER in str(required["transformer"])


def test_it_runs_on_its_own_recipe(client: ComfyClient, published: Path):
    g = EditGraph()
    output_image = example_image().resize((SIDE, SIDE))
    image = g.add("LoadImage", image=client.upload(output_image, "large.png"))
    edit = g.add_edit(
        "Fill",
        image,
        model=g.add_model(model=NAME, transformer=TRANSFORMER),
        settings={"target_size": SIDE, "steps": 2},
    )
    result = g.show(edit)
    job = client.run(g.graph, timeout_s=600)
    assert job.succeeded, job.error
    assert client.image(job.images(result)[0]).size == (SIDE, SIDE)
    (note,) = job.outputs[edit[0]]["onereward"][0]["notes"]
    assert "leave the recipe OneReward: steps 2 instead of 50, target_size 128" in note
