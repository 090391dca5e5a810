"""The workflows the plugin ships, and the image they start with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from support import machine

FOLDER = machine.ROOT / "workflows"
API_FOLDER = FOLDER / "api"
DEMO = "demo_"
"""Begins the API names of templates that run the bundled models: they need no download."""
CORE_MODEL_LOADERS = ("CheckpointLoaderSimple", "CLIPLoader")
"""Nodes that load models of ComfyUI's own, which the tests cannot make."""
NEWER_NODES = ("SAM3_Detect",)
"""Nodes of ComfyUI in templates that the lowest supported version lacks."""
SLOW = "pick_the_best_of_8_with_any_judge"
"""Eight edits of a photograph take minutes here; a test of its own makes two in one step."""
SIZE = 64
HOLE = (20, 24, 44, 48)


def templates() -> list[Path]:
    """Return every template in the front end's format."""
    return sorted(path for path in FOLDER.glob("*.json") if path.name != "index.json")


def api_workflows() -> list[Path]:
    """Return every workflow in API format."""
    return sorted(API_FOLDER.glob("*.json"))


def api_path(template: Path) -> Path:
    """Return where a template lies in API format.

    Example: ``Demo - all four edits.json`` lies in ``api/demo_all_four_edits.json``.
    """
    slug = re.sub("[^a-z0-9]+", "_", template.stem.lower()).strip("_")
    return API_FOLDER / f"{slug}.json"


def demo_workflows() -> list[Path]:
    """Return the workflows in API format that run on the bundled models, here."""
    return [path for path in api_workflows() if path.stem.startswith(DEMO) and runs_here(path)]


def runs_here(workflow: Path) -> bool:
    """Tell whether a workflow is quick, and its models in this checkout or laid by the server."""
    text = workflow.read_text("utf-8")
    needs_judge = '"OneRewardLoadJudge"' in text
    has_judge = (machine.ROOT / "assets" / "judge" / "config.json").is_file()
    is_slow = api_path(workflow).stem == SLOW
    return not (is_slow or any(f'"{node}"' in text for node in CORE_MODEL_LOADERS)) and (
        has_judge or not needs_judge
    )


def missing_nodes(workflow: Path, object_info: dict[str, Any]) -> set[str]:
    """Return the types of a workflow's nodes, in either format, that a server does not have.

    Args:
        workflow: The file.
        object_info: What the server answers to ``/object_info``.
    """
    text = workflow.read_text("utf-8")
    return {name for name in NEWER_NODES if f'"{name}"' in text and name not in object_info}


def example_image() -> Image.Image:
    """Return a small image with an erased area, which LoadImage hands out as the mask."""
    image = Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGBA")
    ImageDraw.Draw(image).rectangle((8, 8, 18, 30), fill=(200, 60, 40, 255))
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, HOLE)
    image.putalpha(alpha)
    return image
