"""Tables as Markdown, as aligned text and as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ...fill.task import Dimension

Rows = Sequence[tuple[str, Mapping[Dimension, float], float]]
"""Label, value per dimension, and mean, of each row."""

FONT_SIZE = 16
PADDING = 8
WHITE, BLACK, GREY, HEAD = (255, 255, 255), (20, 20, 20), (200, 200, 200), (238, 238, 238)


def table_cells(rows: Rows) -> list[list[str]]:
    """Return head and body: one column per dimension that any row has, and the mean."""
    dimensions = [d for d in Dimension if any(d in values for _, values, _ in rows)]
    head = ["", *(d.value.replace("_", " ") for d in dimensions), "mean"]
    body = [
        [label, *(f"{values[d]:.3f}" if d in values else "" for d in dimensions), f"{mean:.3f}"]
        for label, values, mean in rows
    ]
    return [head, *body]


def table_text(rows: Rows) -> str:
    """Return the table as aligned lines."""
    cells = table_cells(rows)
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def table_image(rows: Rows) -> torch.Tensor:
    """Draw the table; ``[1, H, W, 3]``, float32, 0..1."""
    return render_table(table_cells(rows))[None]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of texts, the head first, as a Markdown table.

    Example: ``markdown_table([["task", "edits"], ["fill", "12"]])``.
    """
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def render_table(cells: Sequence[Sequence[str]]) -> torch.Tensor:
    """Draw rows of texts, the head first; ``[H, W, 3]``, float32, 0..1."""
    font = ImageFont.load_default(FONT_SIZE)
    widths = [
        round(max(font.getlength(row[i]) for row in cells)) + 2 * PADDING
        for i in range(len(cells[0]))
    ]
    height = FONT_SIZE + 2 * PADDING
    image = Image.new("RGB", (sum(widths), height * len(cells)), WHITE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width, height - 1), fill=HEAD)
    for index, row in enumerate(cells):
        left, top = 0, index * height
        for text, width in zip(row, widths, strict=True):
            draw.text((left + PADDING, top + PADDING), text, fill=BLACK, font=font)
            left += width
        draw.line([(0, top + height - 1), (left, top + height - 1)], fill=GREY)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
