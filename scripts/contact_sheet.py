"""One image of all edits: a row per job with the source, its mask's outline, and the results."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

CELL = 256
COLUMNS = 6
GAP = 14
HEADER, CAPTION, FOOT_LINE = 44, 30, 26
FRAME, MARGIN = 6, 4
WIDTH = GAP + COLUMNS * (CELL + GAP)
TEXT, FAINT, BACKGROUND, ALARM = (30, 30, 30), (110, 110, 110), (250, 250, 250), (170, 20, 20)
OUTLINE, OUTLINE_EDGE, CHOICE = (255, 214, 0), (0, 0, 0), (0, 114, 178)


@dataclass(frozen=True, kw_only=True)
class SheetCell:
    """An image of a row. Example: ``SheetCell(caption='fill "a hat"', image=edited)``."""

    caption: str
    image: Image.Image
    """Of a source in RGBA the transparent area is outlined: it is repainted."""
    is_chosen: bool = False
    """The judge's choice among several."""


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One job. Example: ``SheetRow(title="fill", cells=[source, result], seconds=1.2)``."""

    title: str
    cells: list[SheetCell] = field(default_factory=list)
    """Empty: the job is only named at the foot of the sheet."""
    seconds: float
    error: str | None = None


def draw(rows: list[SheetRow]) -> Image.Image:
    """Draw the jobs that show edits or failed; those that made charts and tables are named."""
    large = [row for row in rows if row.cells or row.error]
    notes = _notes([row for row in rows if row not in large])
    bands = _bands(large)
    heights = [HEADER + max(map(_num_lines, band)) * (CELL + CAPTION + GAP) for band in bands]
    sheet = Image.new("RGB", (WIDTH, 2 * GAP + sum(heights) + len(notes) * FOOT_LINE), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    top = GAP
    for band, height in zip(bands, heights, strict=True):
        left = GAP
        for row in band:
            _draw_row(sheet, row, left, top)
            left += _num_columns(row) * (CELL + GAP)
        top += height
    for note in notes:
        pen.text((GAP, top), note, fill=FAINT, font=_font(18))
        top += FOOT_LINE
    return sheet


def _bands(rows: list[SheetRow]) -> list[list[SheetRow]]:
    """Put short rows beside each other, as many as there is room for."""
    bands: list[list[SheetRow]] = []
    for row in rows:
        if bands and sum(map(_num_columns, [*bands[-1], row])) <= COLUMNS:
            bands[-1].append(row)
        else:
            bands.append([row])
    return bands


def _num_columns(row: SheetRow) -> int:
    """Return how many columns a row takes; an error's sentence takes all."""
    return COLUMNS if row.error else min(len(row.cells), COLUMNS)


def _num_lines(row: SheetRow) -> int:
    return -(-len(row.cells) // COLUMNS)


def _notes(rows: list[SheetRow]) -> list[str]:
    """Return the lines at the foot: jobs that made no edits to look at."""
    if not rows:
        return []
    jobs = ", ".join(f"{row.title} ({row.seconds:.0f} s)" for row in rows)
    return [f"Charts and tables are files of their own: {jobs}."]


def _draw_row(sheet: Image.Image, row: SheetRow, start: int, top: int) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((start, top + 8), row.title, fill=TEXT, font=_font(26))
    left = start + pen.textlength(row.title, font=_font(26)) + GAP
    note = row.error or f"{row.seconds:.1f} s"
    pen.text((left, top + 15), note, fill=ALARM if row.error else FAINT, font=_font(18))
    for index, cell in enumerate(row.cells):
        line, column = divmod(index, COLUMNS)
        corner = start + column * (CELL + GAP), top + HEADER + line * (CELL + CAPTION + GAP)
        image = _fit(cell.image)
        left, upper = (
            corner[0] + (CELL - image.width) // 2,
            corner[1] + (CELL - image.height) // 2,
        )
        if cell.is_chosen:
            box = (
                left - FRAME,
                upper - FRAME,
                left + image.width + FRAME,
                upper + image.height + FRAME,
            )
            pen.rectangle(box, fill=CHOICE)
        sheet.paste(image, (left, upper))
        colour = CHOICE if cell.is_chosen else TEXT
        caption = _shorten(pen, cell.caption)
        pen.text((corner[0], corner[1] + CELL + 8), caption, fill=colour, font=_font(18))


def _fit(image: Image.Image) -> Image.Image:
    """Return an image as large as its cell, without transparency but with its outline."""
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    fitted = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    if image.mode == "RGBA":
        alpha = image.getchannel("A").resize(size, Image.Resampling.BICUBIC)
        _outline(fitted, alpha.point([255] * 128 + [0] * 128))
    return fitted


def _outline(image: Image.Image, area: Image.Image) -> None:
    """Draw the outline of an area, closed where the area ends at the image's edge."""
    padded = ImageOps.expand(area, MARGIN)
    inner, outer = padded.filter(ImageFilter.MinFilter(7)), padded.filter(ImageFilter.MaxFilter(3))
    box = (MARGIN, MARGIN, MARGIN + image.width, MARGIN + image.height)
    image.paste(OUTLINE_EDGE, mask=ImageChops.subtract(outer, padded).crop(box))
    image.paste(OUTLINE, mask=ImageChops.subtract(padded, inner).crop(box))


def _shorten(pen: ImageDraw.ImageDraw, text: str) -> str:
    """Cut a caption to its cell's width."""
    if pen.textlength(text, font=_font(18)) <= CELL:
        return text
    while text and pen.textlength(f"{text}...", font=_font(18)) > CELL:
        text = text[:-1]
    return f"{text}..."


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
