"""The pictures of the demo: one procedural scene per task, and a photograph.

Masks travel in the alpha channel, as ComfyUI's mask editor saves them: transparent = repaint.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from onereward.world.conditions import TASKS, Conditions, draw_conditions
from onereward.world.splits import Split

SCENES = 20_000
"""Number of a batch of the world's dev split: what training has never seen."""

SPOON = (
    *((394, 64), (430, 66), (426, 110), (404, 182), (392, 232), (410, 258), (412, 298)),
    *((392, 328), (348, 332), (322, 312), (322, 266), (346, 240), (374, 228), (388, 196)),
    *((404, 140), (400, 100)),
)
"""Outline of the spoon in the photograph, x and y in pixels."""


def scene(task: str) -> Image.Image:
    """Return a scene that suits a task, with its mask."""
    scenes, row = _scenes(), TASKS.index(task)
    if task == "extend":  # the node makes the new area itself: the whole scene is the source
        return _picture(scenes.target[row]).convert("RGBA")
    picture = _picture(scenes.source[row])
    keep = 1 - scenes.mask[row]
    picture.putalpha(_picture(keep[None]).convert("L"))
    return picture


def photograph() -> Image.Image:
    """Return a photograph of a cup of coffee with its spoon masked.

    It is scikit-image's ``coffee``: CC0 by the photographer, Rachel Michetti. The bundled model
    was not trained on it.
    """
    import skimage

    file = Path(skimage.__file__).parent / "data" / "coffee.png"
    picture = Image.open(file).convert("RGBA")
    alpha = Image.new("L", picture.size, 255)
    ImageDraw.Draw(alpha).polygon(SPOON, fill=0)
    picture.putalpha(alpha)
    return picture


@functools.cache
def _scenes() -> Conditions:
    return draw_conditions(Split.DEV, SCENES, torch.arange(len(TASKS)))


def _picture(pixels: torch.Tensor) -> Image.Image:
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)
