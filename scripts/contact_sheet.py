"""One image of all jobs: source, mask, results, and the seconds taken."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL = 256
GAP = 12
CAPTION = 22
HEADER = 40
TEXT, FAINT, BACKGROUND, ALARM = (30, 30, 30), (120, 120, 120), (250, 250, 250), (170, 20, 20)


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One job.

    Example: ``SheetRow(title="fill", sources=[image], results=[("fill", edited)], seconds=1.2)``.
    """

    title: str
    sources: list[Image.Image]
    """RGBA; transparent = repaint. An opaque image has no mask of its own."""
    results: list[tuple[str, Image.Image]]
    """What each result is, and the image."""
    seconds: float
    error: str | None = None


def draw(rows: list[SheetRow]) -> Image.Image:
    """Draw one row per job."""
    cells = [_cells(row) for row in rows]
    columns = max(len(row) for row in cells)
    row_height = HEADER + CELL + CAPTION + GAP
    size = (GAP + columns * (CELL + GAP), GAP + len(rows) * row_height)
    sheet = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        top = GAP + index * row_height
        pen.text((GAP, top + 6), row.title.replace("_", " "), fill=TEXT, font=_font(20))
        note = row.error or f"{row.seconds:.1f} s"
        pen.text((GAP + CELL, top + 8), note, fill=ALARM if row.error else FAINT, font=_font(16))
        for column, (caption, image) in enumerate(cells[index]):
            left = GAP + column * (CELL + GAP)
            sheet.paste(_fit(image), (left, top + HEADER))
            pen.text((left, top + HEADER + CELL + 2), caption, fill=FAINT, font=_font(14))
    return sheet


def _cells(row: SheetRow) -> list[tuple[str, Image.Image]]:
    cells = []
    for source in row.sources:
        opaque = source.convert("RGB")
        cells.append((f"source, {source.width} x {source.height}", opaque))
        mask = source.getchannel("A").point(lambda alpha: 255 - alpha)
        if mask.getbbox():
            cells.append(("mask: white is repainted", mask.convert("RGB")))
    for name, result in row.results:
        cells.append((f"{name}, {result.width} x {result.height}", result.convert("RGB")))
    return cells


def _fit(image: Image.Image) -> Image.Image:
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    fitted = Image.new("RGB", (CELL, CELL), BACKGROUND)
    fitted.paste(image.resize(size, method), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return fitted


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
