"""Puts the example pictures that the templates name into ComfyUI's input folder."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths
from PIL import Image

from ...fill.io.files import UNREADABLE
from ...fill.io.writing import write_image
from .folders import ASSETS

PREFIX = "onereward_"
"""Begins their names, so that they stand together and hide nobody's pictures."""
NAMES = ("photo", "photo_text", "toy_extend", "toy_fill", "toy_remove", "toy_text")
TEXT_AREA = (452, 262, 592, 372)
"""Where there is room for words on the photograph: left, top, right, bottom in pixels."""
EXAMPLES = ASSETS / "examples"

log = logging.getLogger("onereward.nodes")


def put() -> None:
    """Write the pictures that are missing into ComfyUI's input folder.

    What is erased (transparent) in them is the mask, so that LoadImage gives both. A picture that
    is there stays as it is. A folder that cannot be written is logged: everything else works.

    Example: ``put()`` makes ``input/onereward_photo.png`` and five others.
    """
    folder = Path(folder_paths.get_input_directory())
    paths = {name: folder / f"{PREFIX}{name}.png" for name in NAMES}
    try:
        for name, path in paths.items():
            if not path.exists():
                write_image(path, _picture(name))
    except UNREADABLE as error:
        log.warning("the example pictures of the templates could not be written: %s", error)


def _picture(name: str) -> Image.Image:
    """Return an example with its mask as alpha: a toy scene, or the photograph with one of two."""
    if name.startswith("toy_"):
        return _read(f"scenes/{name.removeprefix('toy_')}.png")
    picture = _read("photo/coffee.png").convert("RGB")
    if name == "photo_text":
        mask = Image.new("L", picture.size)
        mask.paste(255, TEXT_AREA)
    else:
        mask = _read("photo/coffee_mask.png").convert("L")
    picture.putalpha(mask.point([255 - value for value in range(256)]))
    return picture


def _read(name: str) -> Image.Image:
    with Image.open(EXAMPLES / name) as image:
        return image.copy()
