"""Tables as Markdown, as aligned text and as images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ...fill.task import Dimension

Rows = Sequence[tuple[str, Mapping[Dimension, float], float]]
"""Label, value per dimension, and mean, of each row."""

FONT_SIZE = 16
PADDING = 8
WHITE, BLACK, GREY, HEAD = (255, 255, 255), (20, 20, 20), (200, 200, 200), (238, 238, 238)
FAINT = (150, 150, 150)


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


def render_table(
    cells: Sequence[Sequence[str]],
    faint: Collection[tuple[int, int]] = (),
    font_size: int = FONT_SIZE,
) -> torch.Tensor:
    """Draw rows of texts, the head first; ``[H, W, 3]``, float32, 0..1.

    Args:
        cells: Texts; one may have several lines.
        faint: Row and column of the cells that are grey.
        font_size: In pixels.
    """
    font = ImageFont.load_default(font_size)
    lines = [[text.split("\n") for text in row] for row in cells]
    widths = [
        round(max(font.getlength(line) for row in lines for line in row[i])) + 2 * PADDING
        for i in range(len(cells[0]))
    ]
    # A row is as high as its cell of most lines; four pixels lie between two lines.
    heights = [max(len(cell) for cell in row) * (font_size + 4) - 4 + 2 * PADDING for row in lines]
    image = Image.new("RGB", (sum(widths), sum(heights)), WHITE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width, heights[0] - 1), fill=HEAD)
    top = 0
    for index, (row, height) in enumerate(zip(lines, heights, strict=True)):
        left = 0
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            is_faint = (index, column) in faint
            if is_faint:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=HEAD)
            for number, line in enumerate(cell):
                place = left + PADDING, top + PADDING + number * (font_size + 4)
                draw.text(place, line, fill=FAINT if is_faint else BLACK, font=font)
            left += width
        top += height
        draw.line([(0, top - 1), (left, top - 1)], fill=GREY)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
