"""Everything a user can get wrong: one clear sentence, nothing lost, server alive."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from support.bundled_models import BUNDLED
from support.client import ApiError, ComfyClient, ComfyJob, Graph
from support.edits import EditGraph
from support.graph import Link, output
from support.server import ComfyServer

Build = Callable[[EditGraph, Link], Any]
"""Adds an edit to a graph whose image is given; what it returns is not used."""


def run_bad(client: ComfyClient, graph: Graph, server: ComfyServer) -> str:
    """Run a job that must fail; return what the user reads, and check that nothing else broke."""
    read_before = server.log().count("Requested to load")
    try:
        job = client.run(graph)
        message = job.error
        # It is on the node before it is raised; ComfyUI may add tips of its own.
        assert message is None or message.startswith(last_text(job))
    except ApiError as refused:
        message = refusal(refused)
    assert message is not None, "the job succeeded"
    assert server.log().count("Requested to load") == read_before, "a model was loaded for nothing"
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    return message


def last_text(job: ComfyJob) -> str:
    """Return the last line of what the failed node showed."""
    lines = [e.data for e in job.events if e.kind == "onereward.text"]
    assert lines, "nothing was shown"
    assert lines[-1]["is_error"]
    assert lines[-1]["node"] == job.failed_node
    return lines[-1]["text"][-1]


def refusal(refused: ApiError) -> str:
    """Return why the server did not queue a job; one error for each node at fault."""
    for node in refused.body.get("node_errors", {}).values():
        assert len(node["errors"]) == 1, node
    return "; ".join(refused.messages())


def says(message: str, expected: str) -> bool:
    """Tell whether a message has the sentence; newer ComfyUI checks some lists by itself."""
    match = re.match(r"(\w+) (?:is )?('[^']*')", expected)
    by_itself = match is not None and f"{match[1]}: {match[2]} not in" in message
    return expected in message or by_itself


def edit_graph(client: ComfyClient, build: Build, example: str) -> Graph:
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    build(g, image)
    edits = [n for n in g.graph if g.graph[n]["class_type"] in EDIT_CLASSES]
    g.show([edits[-1], 0])
    return g.graph


EDIT_CLASSES = {"OneRewardFill", "OneRewardExtend", "OneRewardRemove", "OneRewardText"}


def batch(g: EditGraph, image: Link, amount: int) -> Link:
    return g.add("RepeatImageBatch", image=image, amount=amount)


def as_mask(g: EditGraph, image: Link) -> Link:
    return g.add("ImageToMask", image=image, channel="red")


def fault(g: EditGraph, kind: str, side: int = 64) -> Link:
    return g.add("TestImage", fault=kind, side=side)


def rgba(g: EditGraph, image: Link) -> Link:
    return g.add("JoinImageWithAlpha", image=image, alpha=output(image, 1))


def settings(**values: Any) -> Build:
    return lambda g, i: g.add_edit("Fill", i, settings=values)


def extend(**values: Any) -> Build:
    return lambda g, i: g.add_edit("Extend", i, **values)


def text(text: str) -> Build:
    return lambda g, i: g.add_edit("Text", i, text=text)


def load(**values: Any) -> Build:
    return lambda g, i: g.add_edit("Fill", i, model=g.add_model(**values))


NOTHING = {"left": 0, "right": 0}
BAD_INPUT: dict[str, tuple[Build, str]] = {
    "mask of another size": (
        lambda g, i: g.add_edit("Fill", i, g.add_mask(32, 48)),
        "mask is 32x48 pixels but image is 64x64 pixels; make the mask from this image",
    ),
    "stitch mask of another size": (
        lambda g, i: g.add_edit("Fill", i, stitch_mask=g.add_mask(32, 48)),
        "stitch_mask is 32x48 pixels but image is 64x64 pixels",
    ),
    "mask of zeros": (
        lambda g, i: g.add_edit("Remove", i, g.add_mask(value=0.0)),
        "mask is empty; paint the area to repaint",
    ),
    "nothing left to continue": (
        lambda g, i: g.add_edit("Remove", i, g.add_mask()),
        "mask covers the whole image",
    ),
    "four channels": (
        lambda g, i: g.add_edit("Fill", rgba(g, i), output(i, 1)),
        "image has 4 channels (RGBA), but 3 (RGB) are expected",
    ),
    "one channel": (
        lambda g, i: g.add_edit("Fill", fault(g, "one channel"), g.add_mask()),
        "image has 1 channel (greyscale), but 3 (RGB) are expected",
    ),
    "no batch axis": (
        lambda g, i: g.add_edit("Fill", fault(g, "no batch"), g.add_mask()),
        "[batch, height, width, 3] is expected",
    ),
    "no batch axis, extend to aspect": (
        lambda g, i: g.add_edit("Extend", fault(g, "no batch"), aspect="16:9"),
        "[batch, height, width, 3] is expected",
    ),
    "empty batch": (
        lambda g, i: g.add_edit("Fill", fault(g, "empty batch"), g.add_mask()),
        "image is an empty batch",
    ),
    "nan in the image": (
        lambda g, i: g.add_edit("Fill", fault(g, "nan"), g.add_mask()),
        "image contains NaN",
    ),
    "nan in the mask": (
        lambda g, i: g.add_edit("Fill", i, as_mask(g, fault(g, "nan"))),
        "mask contains NaN",
    ),
    "too small": (
        lambda g, i: g.add_edit("Fill", fault(g, "", 8), g.add_mask(8, 8)),
        "image is 8x8 pixels, but sides of 16 to 16384 pixels are expected",
    ),
    "batches that do not match": (
        lambda g, i: g.add_edit("Fill", batch(g, i, 2), as_mask(g, batch(g, i, 3))),
        "mask has 3 masks but image has 2 images",
    ),
    "fill without a prompt": (
        lambda g, i: g.add_edit("Fill", i, prompt=" \n"),
        "prompt is empty; say what to paint",
    ),
    "no text": (text(" \n "), "text is empty"),
    "text with a quote": (text('"A"'), "text contains a double quote"),
    "text with unknown characters": (text("Aß"), "contains 'ß'"),
    "extend by nothing": (extend(**NOTHING), "nothing to extend: all four sides are 0"),
    "aspect already met": (extend(aspect="1:1"), "64x64 pixels and has the aspect 1:1 already"),
    "unknown aspect": (extend(aspect="wide"), "aspect is 'wide', but W:H such as 16:9"),
    "unknown anchor": (extend(aspect="16:9", anchor="up"), "anchor is 'up'; choose one of"),
    "negative size": (extend(left=-8), "left"),
    "huge size": (extend(left=100_000), "left"),
    "huge canvas": (extend(left=16_384), "the extended image is 16456x64 pixels"),
    "steps 0": (settings(steps=0), "steps is 0, but -1 (recipe) or at least 1 is expected"),
    "too many steps": (settings(steps=1001), "steps"),
    "true_cfg not a number": (settings(true_cfg=float("nan")), "true_cfg is nan"),
    "unknown mode": (settings(cfg_mode="both"), "cfg_mode is 'both'; choose one of"),
    "unknown model": (load(model="no-such"), "model 'no-such' is not a folder"),
    "model outside the folders": (load(model="../../etc"), "model '../../etc' is not a folder"),
    "unknown transformer": (load(transformer="x"), "transformer 'x' is not a folder"),
    "unknown recipe": (load(recipe="mine"), "recipe is 'mine'; choose one of"),
    "unknown precision": (load(precision="int3"), "precision is 'int3'; choose one of"),
    "download not allowed": (load(hub_id="a/b"), "hub_id is a/b but allow_download is off"),
    "malformed hub id": (load(hub_id="../b"), "hub_id is '../b', but owner/name is expected"),
    "no connection": (
        load(hub_id="a/b", allow_download=True),
        "a/b could not be downloaded",
    ),
    "unknown adapter": (
        lambda g, i: g.add_edit("Fill", i, model=adapted(g, "no-such.safetensors")),
        "adapter 'no-such.safetensors' is not in models/loras",
    ),
}


STATIC = (
    *("fill without a prompt", "no text", "text with a quote", "extend by nothing"),
    *("unknown aspect", "unknown anchor", "negative size", "huge size", "steps 0"),
    *("too many steps", "true_cfg not a number", "unknown mode", "unknown model"),
    *("model outside the folders", "unknown transformer", "download not allowed"),
)


def adapted(g: EditGraph, name: str) -> Link:
    return g.add("OneRewardLoadAdapter", model=g.add_model(), adapter=name, strength=1.0)


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_sentence(
    case: str, comfyui: ComfyServer, client: ComfyClient, example: str
):
    build, expected = BAD_INPUT[case]
    message = run_bad(client, edit_graph(client, build, example), comfyui)
    assert says(message, expected), message
    assert "\n" not in message


@pytest.mark.parametrize("case", STATIC)
def test_what_is_static_is_refused_before_the_queue(case: str, client: ComfyClient, example: str):
    build, expected = BAD_INPUT[case]
    with pytest.raises(ApiError) as refused:
        client.queue(edit_graph(client, build, example))
    assert says(refusal(refused.value), expected)


def test_a_linked_value_is_left_to_the_run(comfyui: ComfyServer, client: ComfyClient, example: str):
    g = EditGraph()
    prompt = g.add("StringConcatenate", string_a=" ", string_b="", delimiter="")
    g.show(g.add_edit("Fill", g.add("LoadImage", image=example), prompt=prompt))
    client.queue(g.graph)  # not refused
    assert "prompt is empty" in run_bad(client, g.graph, comfyui)


def test_an_image_without_a_mask_says_so(comfyui: ComfyServer, client: ComfyClient):
    name = client.upload(Image.new("RGB", (80, 48), "grey"), "no-mask.png")
    g = EditGraph()
    g.show(g.add_edit("Fill", g.add("LoadImage", image=name)))
    assert "mask is empty; paint" in run_bad(client, g.graph, comfyui)


def remove_file(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()


def pickle_weights(folder: Path) -> None:
    weights = next((folder / "text_encoder").glob("*.safetensors"))
    weights.rename(weights.with_name("pytorch_model.bin"))


def change_class(folder: Path) -> None:
    index = folder / "model_index.json"
    values = json.loads(index.read_text("utf-8"))
    index.write_text(json.dumps(values | {"_class_name": "StableDiffusionPipeline"}), "utf-8")


def change_channels(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    values = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(values | {"in_channels": 64}), "utf-8")


def cut_off(folder: Path) -> None:
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])


def drop_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer_2")


def break_recipe(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"format": 1, "steps": 0}', "utf-8")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing file": (remove_file, "config.json is missing"),
    "pickled weights": (pickle_weights, "has only pickled weights"),
    "another pipeline": (change_class, "is a StableDiffusionPipeline folder"),
    "no fill transformer": (
        change_channels,
        "has 64 input channels (as FLUX.1 Depth and Canny have), but a Fill model",
    ),
    "truncated weights": (cut_off, "it is cut off or damaged, download it again"),
    "no tokenizer": (drop_tokenizer, "holds no tokenizer"),
    "broken recipe": (break_recipe, "recipe.json is not a recipe"),
}


@pytest.fixture
def damaged(comfyui: ComfyServer) -> Iterator[Path]:
    """A copy of the bundled model in the server's models, for a test to spoil."""
    folder = comfyui.base_directory / "models" / "onereward" / "damaged"
    shutil.copytree(BUNDLED, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_models_are_refused(
    case: str, comfyui: ComfyServer, client: ComfyClient, example: str, damaged: Path
):
    damage, expected = DAMAGE[case]
    damage(damaged)
    message = run_bad(client, edit_graph(client, load(model="damaged"), example), comfyui)
    assert expected in message
    assert "\n" not in message


def lora_file() -> dict[str, torch.Tensor]:
    names = (f"transformer.{first_layer()}.lora_{side}.weight" for side in "AB")
    return {name: torch.zeros(2, 2) for name in names}


def clip_file() -> dict[str, torch.Tensor]:
    return load_file(next((BUNDLED / "text_encoder").glob("*.safetensors")))


SINGLE_FILES: dict[str, tuple[str, str, Callable[[], dict[str, torch.Tensor]], str]] = {
    "a lora as transformer": (
        *("transformer", "diffusion_models", lora_file),
        "is a LoRA, but a FLUX.1 Fill transformer is needed as transformer; load it with",
    ),
    "clip as t5": ("t5", "text_encoders", clip_file, "is CLIP-L (clip_l.safetensors), but the T5"),
    "clip as vae": ("vae", "vae", clip_file, "is CLIP-L (clip_l.safetensors), but the VAE of"),
}


@pytest.mark.parametrize("case", SINGLE_FILES)
def test_files_in_the_wrong_slot_are_named(
    case: str, comfyui: ComfyServer, client: ComfyClient, example: str
):
    slot, models_folder, make, expected = SINGLE_FILES[case]
    name = "falsche Datei é.safetensors"
    folder = comfyui.base_directory / "models" / models_folder
    folder.mkdir(parents=True, exist_ok=True)
    save_file(make(), folder / name)
    try:
        message = run_bad(client, edit_graph(client, load(**{slot: name}), example), comfyui)
    finally:
        (folder / name).unlink()
    assert f"{name} {expected}" in message
    assert "\n" not in message


def write_lora(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path.name


def first_layer() -> str:
    """Name a linear layer of the bundled transformer."""
    weights = load_file(next((BUNDLED / "transformer").glob("*.safetensors")))
    return next(k for k in weights if k.endswith("attn.to_q.weight")).removesuffix(".weight")


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (
            {
                f"transformer.{first_layer()}.lora_A.weight": torch.zeros(2, 7),
                f"transformer.{first_layer()}.lora_B.weight": torch.zeros(7, 2),
            },
            "is for another model",
        ),
        (
            {
                "transformer.transformer_blocks.999.attn.to_q.lora_A.weight": torch.zeros(2, 7),
                "transformer.transformer_blocks.999.attn.to_q.lora_B.weight": torch.zeros(7, 2),
            },
            "is for another model",
        ),
        ({"some.weight": torch.zeros(2, 2)}, "LoRA"),
    ],
    ids=["other width", "more blocks", "no lora"],
)
def test_foreign_adapters_are_refused(
    tensors: dict[str, torch.Tensor],
    expected: str,
    comfyui: ComfyServer,
    client: ComfyClient,
    example: str,
):
    name = write_lora(comfyui.base_directory / "models" / "loras" / "foreign.safetensors", tensors)
    graph = edit_graph(client, lambda g, i: g.add_edit("Fill", i, model=adapted(g, name)), example)
    message = run_bad(client, graph, comfyui)
    assert expected in message
    assert "\n" not in message


def test_too_little_memory_says_what_to_change(
    comfyui: ComfyServer, client: ComfyClient, example: str
):
    def graph(free_bytes: int) -> Graph:
        g = EditGraph()
        image = g.add("LoadImage", image=example)
        short = g.add("TestFreeMemory", image=image, free_bytes=free_bytes)
        g.show(g.add_edit("Fill", short, output(image, 1), seed=77))
        return g.graph

    try:
        message = run_bad(client, graph(1000), comfyui)
    finally:
        g = EditGraph()
        image = g.add("LoadImage", image=example)
        g.show(g.add("TestFreeMemory", image=image, free_bytes=-1))
        assert client.run(g.graph).succeeded
    first = message.splitlines()[0]  # ComfyUI adds tips of its own
    assert "not enough memory on cpu" in first
    assert "lower target_size" in first
    assert client.run(graph(-1)).succeeded


def test_the_server_still_works(client: ComfyClient, example: str):
    g = EditGraph()
    g.show(g.add_edit("Fill", g.add("LoadImage", image=example)))
    job = client.run(g.graph)
    assert job.succeeded, job.error
