"""What the shipped templates and blueprints name exists, and what they say is true of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support import machine
from support.graph import load_graph
from support.template_files import WRITERS
from support.workflows import DEMO, FOLDER, api_path, api_workflows, templates

BLUEPRINTS = sorted((machine.ROOT / "subgraphs").glob("*.json"))
MAX_THUMBNAIL_BYTES = 60_000
MAX_THUMBNAILS_BYTES = 700_000
TITLE_HEIGHT = 30
"""Of a node on the canvas, above its position."""
MODEL_NOT_MADE_HERE = "checkpoints/sam3.1_multiplex_fp16.safetensors"

every_template = pytest.mark.parametrize("path", templates(), ids=lambda path: path.stem)


def nodes_of_file(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a template or blueprint, those inside its blocks too."""
    data = json.loads(path.read_text("utf-8"))
    yield from data["nodes"]
    for block in data.get("definitions", {}).get("subgraphs", []):
        yield from block["nodes"]


def test_every_template_has_its_api_file_and_a_small_thumbnail():
    assert {api_path(path) for path in templates()} == set(api_workflows())
    thumbnails = {path.with_suffix(".jpg") for path in templates()}
    assert thumbnails == set(FOLDER.glob("*.jpg"))
    sizes = [path.stat().st_size for path in thumbnails]
    assert max(sizes) < MAX_THUMBNAIL_BYTES
    assert sum(sizes) < MAX_THUMBNAILS_BYTES


@pytest.mark.parametrize("path", [*templates(), *BLUEPRINTS], ids=lambda path: path.stem)
def test_names_are_allowed_in_every_file_system(path: Path):
    assert re.fullmatch(r"[\w ()-]+", path.stem)


def test_every_picture_that_is_loaded_comes_with_the_pack(nodes: ModuleType):
    examples: Any = nodes.paths.example_inputs
    pictures = {f"{examples.PREFIX}{name}.png" for name in examples.NAMES}
    loaded = {
        node["inputs"]["image"]
        for path in api_workflows()
        for node in load_graph(path).values()
        if node["class_type"] == "LoadImage"
    }
    assert loaded == pictures


@pytest.mark.parametrize("path", [*templates(), *BLUEPRINTS], ids=lambda path: path.stem)
def test_every_model_file_has_a_link_that_the_front_end_takes(path: Path):
    for node in nodes_of_file(path):
        values = node.get("widgets_values") or []
        names = {v for v in values if isinstance(v, str) and v.endswith(".safetensors")}
        offered = node["properties"].get("models", [])
        if node["type"] in {b["id"] for b in blocks_of(path)}:
            continue
        assert {model["name"] for model in offered} == names
        for model in offered:
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith(f"/{model['name']}")
            laid = f"{model['directory']}/{model['name']}"
            assert laid in WRITERS or laid == MODEL_NOT_MADE_HERE


def blocks_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text("utf-8")).get("definitions", {}).get("subgraphs", [])


@every_template
def test_demos_need_no_download_and_the_others_say_what_they_need(path: Path):
    models = [m for node in nodes_of_file(path) for m in node["properties"].get("models", [])]
    assert bool(models) != api_path(path).stem.startswith(DEMO)
    (note,) = (node for node in nodes_of_file(path) if node["type"] == "MarkdownNote")
    (text,) = note["widgets_values"]
    assert text.startswith(f"# {path.stem.replace('Demo - ', 'Demo: ')}\n")
    assert "`" not in text, "inline code is hard to read on a note in Nodes 2.0"
    for model in models:
        assert f"- {model['directory']}: [{model['name']}]({model['url']})" in text


@every_template
def test_notes_name_templates_that_exist(path: Path):
    names = {template.stem for template in templates()}
    text = path.read_text("utf-8")
    for name in re.findall(
        r"\*\*((?:Demo - |Fill a|Extend a|Remove an|Remove by|Write t)[^*]+)\*\*", text
    ):
        assert name in names


@every_template
def test_no_node_lies_on_another(path: Path):
    boxes = [
        (x, y - TITLE_HEIGHT, x + width, y + height)
        for node in nodes_of_file(path)
        for (x, y), (width, height) in [(node["pos"], node["size"])]
    ]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other_left, other_top, other_right, other_bottom in boxes[i + 1 :]:
            apart = right <= other_left or other_right <= left
            assert apart or bottom <= other_top or other_bottom <= top


@every_template
def test_app_mode_shows_inputs_and_outputs_that_exist(path: Path):
    data = json.loads(path.read_text("utf-8"))
    app = data["extra"].get("linearData")
    if app is None:
        return
    graph = load_graph(api_path(path))
    for node, name in app["inputs"]:
        assert name in graph[node]["inputs"]
        assert not isinstance(graph[node]["inputs"][name], list)
    assert app["outputs"]
    assert all(graph[node]["class_type"] == "SaveImage" for node in app["outputs"])


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_one_block_with_the_edit_inside(path: Path):
    data = json.loads(path.read_text("utf-8"))
    (outer,) = data["nodes"]
    (block,) = blocks_of(path)
    assert outer["type"] == block["id"]
    assert [i["name"] for i in outer["inputs"]] == [i["name"] for i in block["inputs"]]
    assert [o["name"] for o in outer["outputs"]] == ["image", "mask"]
    inner = {node["id"]: node for node in block["nodes"]}
    assert "OneRewardLoadModel" in {node["type"] for node in inner.values()}
    for link in block["links"]:
        target, slot = inner.get(link["target_id"]), link["target_slot"]
        assert target is None or target["inputs"][slot]["link"] == link["id"]
