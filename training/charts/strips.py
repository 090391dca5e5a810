"""Edits beside each other: a caption, the source with its mask's outline, then results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import Tensor

CELL = 150
"""Longest side of an image in a strip, in pixels."""
GAP = 6
TASK_SIZE, TEXT_SIZE = 22, 17
INK, GREY = (26, 26, 26), (100, 100, 100)
OUTLINE, OUTLINE_EDGE = (255, 214, 0), (0, 0, 0)
"""Two colours, one of which stands out on any picture."""
MAX_LINES = 5
_MARGIN = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strip:
    """One edit.

    Example: ``Strip(task="fill", prompt="a hat", images=(source, start, now), mask=mask)``.
    """

    task: str
    prompt: str
    """What to paint; empty: nothing is said."""
    images: tuple[Tensor, ...]
    """``[H, W, 3]`` each, 0..1, the source first."""
    mask: Tensor
    """``[H, W]``, 1 = repainted; outlined on the source."""


def draw_strips(strips: Sequence[Strip], names: Sequence[str], width: int) -> Tensor:
    """Draw strips under each other; return ``[H, width, 3]``, float32, 0..1.

    Args:
        strips: At least one.
        names: What each image of a strip is, drawn above the first.
        width: In pixels; what the images leave of it is for captions.
    """
    head = TEXT_SIZE + 2 * GAP
    pitch = CELL + GAP
    sheet = Image.new("RGB", (width, head + len(strips) * pitch), "white")
    pen = ImageDraw.Draw(sheet)
    left = width - len(names) * pitch
    for column, name in enumerate(names):
        middle = left + column * pitch + CELL // 2
        pen.text((middle, head // 2), name, fill=GREY, font=_font(TEXT_SIZE), anchor="mm")
    for row, strip in enumerate(strips):
        top = head + row * pitch
        pen.text((GAP, top), strip.task, fill=INK, font=_font(TASK_SIZE))
        text = "\n".join(_wrap(strip.prompt, left - 2 * GAP))
        pen.text((GAP, top + TASK_SIZE + GAP), text, fill=GREY, font=_font(TEXT_SIZE))
        for column, image in enumerate(strip.images):
            cell = _fit(_to_image(image))
            if column == 0:
                cell = outline(cell, _to_image(strip.mask))
            corner = (
                left + column * pitch + (CELL - cell.width) // 2,
                top + (CELL - cell.height) // 2,
            )
            sheet.paste(cell, corner)
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)


def outline(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Draw the outline of a mask (white = repaint, any size) around its area of an image."""
    area = mask.convert("L").resize(image.size).point([0] * 128 + [255] * 128)
    # Nothing is painted beyond the picture, so that an area at its edge is closed there.
    padded = ImageOps.expand(area, _MARGIN)
    inner, outer = padded.filter(ImageFilter.MinFilter(5)), padded.filter(ImageFilter.MaxFilter(3))
    line, edge = ImageChops.subtract(padded, inner), ImageChops.subtract(outer, padded)
    box = (_MARGIN, _MARGIN, _MARGIN + image.width, _MARGIN + image.height)
    result = image.copy()
    result.paste(OUTLINE_EDGE, mask=edge.crop(box))
    result.paste(OUTLINE, mask=line.crop(box))
    return result


def _to_image(values: Tensor) -> Image.Image:
    pixels = (values.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.numpy())


def _fit(image: Image.Image) -> Image.Image:
    scale = CELL / max(image.size)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, the last one cut."""
    font, lines = _font(TEXT_SIZE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "..."]


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
