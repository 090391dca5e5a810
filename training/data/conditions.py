"""Edit data sets: what edits are made from (image, mask, prompt, task), as a folder.

``conditions.jsonl`` has one line per condition; images and masks are PNG files beside it::

    {"name": "remove-cup-3f2a", "task": "remove", "image_file_name": "images/remove-cup-3f2a.png",
     "mask_file_name": "masks/remove-cup-3f2a.png", "prompt": "", "text": "",
     "result_file_name": "results/cup.png"}

The mask is white where to repaint; an extension's source already stands on its canvas. The result
is optional.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...fill.io.files import write_text
from ...fill.io.image_file import open_image
from ...fill.io.json_text import label_of, quote, read_records
from ...fill.io.names import MAX_BYTES, check_file_name
from ...fill.io.photo import to_tensor
from ...fill.io.pixels import to_mask, to_rgb
from ...fill.io.writing import write_image
from ...fill.json_config import make_record
from ...fill.request import FillRequest
from ...fill.task import Task, text_prompt

FILE_NAME = "conditions.jsonl"
_ADVICE = "remove the line that names it"
_KEYS = {
    *("name", "task", "image_file_name", "mask_file_name", "prompt", "text"),
    "result_file_name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One line of the list.

    Example: ``Condition(name="a", task=Task.REMOVE, image_file_name="a.png",
    mask_file_name="a_mask.png")``.
    """

    name: str
    """Unique, a folder's name too; decides the split, so it must not change."""
    task: Task
    image_file_name: str
    mask_file_name: str
    prompt: str = ""
    text: str = ""
    """text only: the words to write; ``prompt`` then says how they look."""
    result_file_name: str = ""
    """The image after the edit, if it is known: what supervised learning learns to paint."""

    def __post_init__(self) -> None:
        """Refuse names that leave the folder, and a task without what it needs."""
        if not re.fullmatch(r"\w[\w.-]*", self.name) or len(self.name.encode()) > MAX_BYTES:
            raise ValueError(
                f"name is {quote(self.name)}, but letters, digits, '.', '_' and '-' are expected, "
                f"in at most {MAX_BYTES} bytes"
            )
        check_file_name(self.image_file_name, "image_file_name")
        check_file_name(self.mask_file_name, "mask_file_name")
        if self.result_file_name:
            check_file_name(self.result_file_name, "result_file_name")
        _ = self.full_prompt

    @property
    def full_prompt(self) -> str:
        """The model's prompt, as the judge has to know it; empty without one."""
        return text_prompt(self.text, self.prompt) if self.task is Task.TEXT else self.prompt


class EditDataset:
    """A folder of conditions.

    Example: ``EditDataset(Path("datasets/mine")).conditions[0].prompt``.
    """

    def __init__(self, folder: Path) -> None:
        """Read the list.

        Raises:
            FileNotFoundError: The folder has no list.
            ValueError: A line is no condition (names it), a name appears twice, or none is there.
        """
        self.folder = folder
        path = folder / FILE_NAME
        if not path.exists():
            raise FileNotFoundError(f"{label_of(path)} is missing; make the conditions first")
        self.conditions = read_records(path, partial(make_record, Condition))
        names = [c.name for c in self.conditions]
        if not names:
            raise ValueError(f"{label_of(path)} is empty; add at least one condition")
        if len(set(names)) < len(names):
            double = next(iter(Counter(names) - Counter(set(names))))
            raise ValueError(
                f"{label_of(path)} has two conditions named {quote(double)}; names must be unique"
            )

    def summary(self) -> str:
        """Return how many conditions there are, per task."""
        tasks = [c.task for c in self.conditions]
        counts = [f"{task.value} {tasks.count(task)}" for task in Task if task in tasks]
        return f"{len(tasks)} conditions ({', '.join(counts)})"

    def images(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return image ``[1, H, W, 3]`` and mask ``[1, H, W]``, float32, 0..1.

        Raises:
            ValueError: A file is missing or no image; names it.
        """
        image = read_image(self.folder / condition.image_file_name, "RGB")
        mask = read_image(self.folder / condition.mask_file_name, "L")
        return image[None], mask[None]

    def check(self, conditions: Iterable[Condition]) -> None:
        """Check the masks and the headers of images, before hours of work depend on them.

        Raises:
            ValueError: A file is missing or no image, or a mask is not as large as its image,
                or empty.
        """
        for condition in conditions:
            image = image_size(self.folder / condition.image_file_name)
            files = {"mask": condition.mask_file_name, "result": condition.result_file_name}
            for kind, name in files.items():
                size = image_size(self.folder / name) if name else image
                if size != image:
                    raise ValueError(
                        f"the {kind} of condition {condition.name} is {size[0]}x{size[1]} pixels "
                        f"but its image is {image[0]}x{image[1]} pixels; make the {kind} from the "
                        "image"
                    )
            if read_image(self.folder / condition.mask_file_name, "L").max() < 0.5:
                raise ValueError(
                    f"the mask of condition {condition.name} is empty; paint white what is to be "
                    "repainted, or remove the condition"
                )

    def result(self, condition: Condition) -> Tensor:
        """Return the image after the edit, ``[1, H, W, 3]``, float32, 0..1.

        The condition's own image where no other is known: it shows what is under the mask.

        Raises:
            ValueError: The file is missing or no image; names it.
        """
        name = condition.result_file_name or condition.image_file_name
        return read_image(self.folder / name)[None]

    def request(self, condition: Condition, **settings: Any) -> FillRequest:
        """Return the request that makes this edit; further fields as for :class:`FillRequest`.

        Raises:
            ValueError: The condition cannot be edited; names it.
        """
        values = {"task": condition.task, "prompt": condition.prompt, "text": condition.text}
        image, mask = self.images(condition)
        try:
            return FillRequest(image=image, mask=mask, **values | settings)
        except ValueError as error:
            raise ValueError(f"condition {condition.name}: {error}") from error


def write_conditions(
    folder: Path, items: Iterable[tuple[Condition, Tensor, Tensor]]
) -> EditDataset:
    """Write images ``[H, W, 3]`` and masks ``[H, W]``, 0..1, and the list of their conditions.

    The list is written last: a stop before leaves the old one, if any.
    """
    lines = []
    for condition, image, mask in items:
        for name, pixels in ((condition.image_file_name, image), (condition.mask_file_name, mask)):
            save_image(folder / name, pixels)
        lines.append(_to_json(condition))
    write_text(folder / FILE_NAME, "\n".join(lines) + "\n")
    return EditDataset(folder)


def save_image(path: Path, pixels: Tensor) -> None:
    """Write ``[H, W, 3]`` or ``[H, W]``, 0..1, as PNG, whole or not at all; makes its folder.

    Raises:
        WriteError: It cannot be written.
    """
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    write_image(path, Image.fromarray(values))


def _to_json(condition: Condition) -> str:
    keys = sorted(_KEYS if condition.result_file_name else _KEYS - {"result_file_name"})
    values = {key: getattr(condition, key) for key in keys}
    return json.dumps(values | {"task": condition.task.value}, ensure_ascii=False)


def read_image(path: Path, mode: str = "RGB") -> Tensor:
    """Read an image file: ``[H, W, 3]`` (mode RGB) or a mask ``[H, W]`` (mode L), float32, 0..1.

    Raises:
        ValueError: It is missing or no image; names the file.
    """
    with open_image(path, _ADVICE) as image:
        return to_tensor(to_mask(image) if mode == "L" else to_rgb(image))


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of an image file; ValueError as for :func:`read_image`."""
    with open_image(path, _ADVICE) as image:
        return image.size


def spread(conditions: Sequence[Condition], num: int) -> list[Condition]:
    """Take conditions of every task in turn."""
    by_task = [[c for c in conditions if c.task is task] for task in Task]
    turns = zip_longest(*by_task)
    return [c for turn in turns for c in turn if c is not None][:num]
