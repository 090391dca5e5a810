"""The images of the demo: one bundled scene per task, and a photograph.

Masks travel in the alpha channel, as ComfyUI's mask editor saves them: transparent = repaint.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "examples"


def scene(task: str) -> Image.Image:
    """Return a scene that suits a task, with its mask."""
    return Image.open(EXAMPLES / "scenes" / f"{task}.png").convert("RGBA")


def photograph() -> Image.Image:
    """Return a photograph of a cup of coffee with its spoon masked."""
    image = Image.open(EXAMPLES / "photo" / "coffee.png").convert("RGBA")
    image.putalpha(ImageOps.invert(Image.open(EXAMPLES / "photo" / "coffee_mask.png")))
    return image
