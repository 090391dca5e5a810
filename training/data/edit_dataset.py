"""Build a data set of conditions from folders of images.

An image ``x.png`` may have a prompt in ``x.txt``, words to write in ``x.text.txt``, and a mask in
``x_mask.png`` or ``masks/x.png`` (white = repaint), else its transparent area is the mask. A
condition's name holds a digest of all of it: what has changed is another condition, and what has
not keeps its candidates and its split.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...fill.host import Host
from ...fill.image.mask import clean_mask
from ...fill.io.image_file import open_image, unread_images
from ...fill.io.json_text import label_of, read_text, shorten
from ...fill.io.photo import ENDS, mask_file, to_tensor
from ...fill.io.pixels import to_mask, to_rgb
from ...fill.json_config import JsonConfig, setting
from ...fill.request import FillRequest
from ...fill.task import Task
from .conditions import Condition, EditDataset, write_conditions
from .random_masks import keyed_generator, random_mask

ALL_TASKS = "all"
MASKS = ("from_files", "random")
GREY = 0.5
"""Colour of the area that an extension adds; the model gets it masked out."""
MULTIPLE = 16
"""Sides of every condition, in pixels, are multiples of this: no model has to pad them."""
MAX_CONDITIONS = 100_000
Item = tuple[Condition, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditDatasetConfig(JsonConfig):
    """What is made of the images. The order of the fields is a promise.

    Example: ``EditDatasetConfig(task="remove", masks="random", num_conditions=200)``.
    """

    task: str = setting(
        ALL_TASKS,
        "The edit these images are for; all = sub-folders named fill, extend, remove and text.",
        options=(ALL_TASKS, *(task.value for task in Task)),
    )
    masks: str = setting(
        MASKS[0],
        "from_files = x_mask.png or masks/x.png beside x.png (white = repaint), else the "
        "transparent area of x.png; random = a new one for every condition.",
        options=MASKS,
    )
    prompt: str = setting("", "Prompt of every image x.png that has no x.txt beside it.")
    text: str = setting(
        "", "Task text: words to write where an image x.png has no x.text.txt beside it."
    )
    num_conditions: int = setting(
        0,
        "How many conditions to make; with random masks an image is used again. 0 = one per image.",
        min=0,
        max=MAX_CONDITIONS,
        step=1,
    )
    max_side: int = setting(
        1024, "Longest side in pixels; larger images are shrunk.", min=64, max=4096, step=16
    )
    seed: int = setting(0, "Decides random masks.", min=0, max=9_999, step=1)


def make_edit_dataset(
    folder: Path, images: Path, config: EditDatasetConfig, host: Host
) -> EditDataset:
    """Write conditions of a folder's images into ``folder``; the old list, if any, is replaced.

    Raises:
        ValueError: No images, a missing mask or prompt, or an unreadable file; names the file.
    """
    files = list(_list_images(images, config.task))
    if not files:
        where = f"{images}, sub-folders fill, extend, remove and text"
        where = where if config.task == ALL_TASKS else str(images)
        raise ValueError(f"no images in {where}; put {', '.join(ENDS)} files there")
    for parent in sorted({path.parent for _, path in files}):
        for name, advice in unread_images(parent).items():
            host.notify(f"left out: {name} ({advice})")
    total = config.num_conditions or len(files)
    if config.masks == MASKS[0]:
        total = min(total, len(files))
    return write_conditions(folder, _unique(_from_files(files, total, config, host)))


def make_condition(name: str, task: Task, prompt: str, text: str) -> Condition:
    """Return a condition whose image and mask lie where a data set keeps them."""
    return Condition(
        name=name,
        task=task,
        image_file_name=f"images/{name}.png",
        mask_file_name=f"masks/{name}.png",
        prompt=prompt,
        text=text,
    )


def _list_images(folder: Path, task: str) -> Iterator[tuple[Task, Path]]:
    folders = {kind: folder / kind.value for kind in Task}
    if task != ALL_TASKS:
        folders = {Task(task): folder}
    for kind, path in folders.items():
        for file in sorted(path.iterdir()) if path.is_dir() else []:
            is_image = file.suffix.lower() in ENDS and file.is_file()
            if is_image and not file.stem.endswith("_mask"):
                yield kind, file


def _from_files(
    files: list[tuple[Task, Path]], total: int, config: EditDatasetConfig, host: Host
) -> Iterator[Item]:
    for index, (task, path) in enumerate(itertools.islice(itertools.cycle(files), total)):
        host.progress(index, total)
        try:
            yield _from_file(task, path, index, config)
        except ValueError as error:
            text, label = str(error), label_of(path, 2)
            text = text if text.startswith(label) else f"{label}: {text}"
            raise ValueError(shorten(text)) from error


def _from_file(task: Task, path: Path, index: int, config: EditDatasetConfig) -> Item:
    prompt = _sidecar(path, ".txt") or config.prompt
    text = _sidecar(path, ".text.txt") or config.text
    # The image at the condition's size, and its mask.
    image = _open(path)
    size = _fit(image.size, config.max_side)
    resized = ImageOps.fit(to_rgb(image), size, Image.Resampling.LANCZOS)
    pixels = to_tensor(resized)  # [H, W, 3]
    if config.masks == MASKS[1]:
        key = f"{config.seed}|{index}|{task.value}|{path.name}"
        mask = random_mask(task, size, keyed_generator(key))
    else:
        # A pixel that the mask only touches must be repainted, too.
        mask = ImageOps.fit(_mask_of(path, image), size, Image.Resampling.BOX)
        mask = mask.point([0, *[255] * 255])
    area = to_tensor(mask)  # [H, W]
    if task is Task.EXTEND:
        pixels = torch.where(area[..., None] > 0, GREY, pixels)
    # Refuse what could not be edited; the name holds a digest of everything.
    FillRequest(task=task, image=pixels[None], mask=area[None], prompt=prompt, text=text)
    stem = re.sub(r"[^\w.-]", "_", path.stem)[:80]
    name = f"{task.value}-{stem}-{_digest(task, prompt, text, pixels, area)}"
    return make_condition(name, task, prompt, text), pixels, area


def _unique(items: Iterator[Item]) -> Iterator[Item]:
    """Leave out repeated conditions: one image under two names, the same random mask."""
    digests: set[str] = set()
    for item in items:
        digest = item[0].name.rpartition("-")[2]
        if digest not in digests:
            digests.add(digest)
            yield item


def _sidecar(path: Path, end: str) -> str:
    file = path.with_name(path.stem + end)
    return read_text(file, allows_utf16=True).strip() if file.is_file() else ""


def _open(path: Path) -> Image.Image:
    with open_image(path, "remove it") as image:
        turned = ImageOps.exif_transpose(image)
        turned.load()
        return turned


def _mask_of(path: Path, image: Image.Image) -> Image.Image:
    """Return the mask that belongs to an image, as large as it, only black and white."""
    file = mask_file(path)
    if file is not None:
        mask = to_mask(_open(file))
        if mask.size != image.size:
            raise ValueError(
                f"its mask {file.name} is {mask.width}x{mask.height} pixels but the image is "
                f"{image.width}x{image.height} pixels; make the mask from this image"
            )
    elif "A" in image.getbands() or "transparency" in image.info:
        mask = ImageOps.invert(image.convert("RGBA").getchannel("A"))
    else:
        raise ValueError(
            f"has no mask; save one as {path.stem}_mask.png, erase the area in the image, or "
            "choose random masks"
        )
    solid = clean_mask(to_tensor(mask)).solid
    return Image.fromarray((solid * 255).to(torch.uint8).numpy())


def _fit(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return the size of a condition: shrunk to the longest side, cut to multiples of 16 pixels."""
    factor = min(1.0, max_side / max(size))
    width, height = (int(side * factor) // MULTIPLE * MULTIPLE for side in size)
    if min(width, height) < MULTIPLE:
        raise ValueError(
            f"is {size[0]}x{size[1]} pixels, which is too small or too narrow; remove it"
        )
    return width, height


def _digest(task: Task, prompt: str, text: str, pixels: Tensor, mask: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for value in (task.value, prompt, text):
        digest.update(value.encode() + b"\0")
    for tensor in (pixels, mask):
        digest.update((tensor * 255).round().to(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
