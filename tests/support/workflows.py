"""The workflows the plugin ships, and the image they start with."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from support import machine

FOLDER = machine.ROOT / "workflows"
API_FOLDER = FOLDER / "api"
SIZE = 64
HOLE = (20, 24, 44, 48)


def templates() -> list[Path]:
    """Return every template in the front end's format."""
    return sorted(path for path in FOLDER.glob("*.json") if path.name != "index.json")


def api_workflows() -> list[Path]:
    """Return every workflow in API format."""
    return sorted(API_FOLDER.glob("*.json"))


def runs_here(workflow: Path) -> bool:
    """Tell whether the bundled models that a workflow names are in this checkout."""
    needs_judge = '"OneRewardLoadJudge"' in workflow.read_text("utf-8")
    return not needs_judge or (machine.ROOT / "assets" / "judge" / "config.json").is_file()


def example_image() -> Image.Image:
    """Return a small image with an erased area, which LoadImage hands out as the mask."""
    image = Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGBA")
    ImageDraw.Draw(image).rectangle((8, 8, 18, 30), fill=(200, 60, 40, 255))
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, HOLE)
    image.putalpha(alpha)
    return image
