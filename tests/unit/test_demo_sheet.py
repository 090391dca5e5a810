"""The demo's contact sheet: what is repainted and what the judge has chosen can be seen."""

from __future__ import annotations

import numpy as np
from PIL import Image

from support.scripts import load_script

sheets = load_script("contact_sheet")


def grey(hole: tuple[int, int, int, int] | None = None) -> Image.Image:
    image = Image.new("RGBA", (64, 64), (120, 120, 120, 255))
    if hole:
        image.paste((120, 120, 120, 0), hole)
    return image


def row(title: str, num_results: int, hole: tuple[int, int, int, int] | None = None):
    source = sheets.SheetCell(caption="source", image=grey(hole))
    results = [
        sheets.SheetCell(caption="fill", image=grey().convert("RGB"), is_chosen=index == 1)
        for index in range(num_results)
    ]
    return sheets.SheetRow(title=title, cells=[source, *results], seconds=1.0)


def places(sheet: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((np.asarray(sheet) == colour).all(-1))


def test_the_mask_of_a_source_is_outlined_where_it_is():
    sheet = sheets.draw([row("fill", 1, (16, 16, 48, 48))])
    pixels = places(sheet, sheets.OUTLINE)
    top, left = pixels.min(0)
    bottom, right = pixels.max(0)
    assert abs(left - (sheets.GAP + 16 * 4)) <= 2
    assert abs(bottom - top - 32 * 4) <= 3
    assert abs(right - left - 32 * 4) <= 3
    assert not places(sheets.draw([row("extend", 1)]), sheets.OUTLINE).size


def test_the_judges_choice_is_framed():
    pixels = places(sheets.draw([row("best", 8)]), sheets.CHOICE)
    left, right = pixels[:, 1].min(), pixels[:, 1].max()
    pitch = sheets.CELL + sheets.GAP
    assert left == sheets.GAP + 2 * pitch - sheets.FRAME, "the second result is in the third column"
    assert right == sheets.GAP + 2 * pitch + sheets.CELL + sheets.FRAME
    assert not places(sheets.draw([row("fill", 1)]), sheets.CHOICE).size


def test_short_rows_share_a_line_and_no_row_is_cut():
    height_of_1, height_of_3, height_of_4 = (
        sheets.draw([row("fill", 1)] * n).height for n in (1, 3, 4)
    )
    assert height_of_1 == height_of_3 < height_of_4
    long = sheets.draw([row("best", sheets.COLUMNS)])
    assert long.height == height_of_1 + sheets.CELL + sheets.CAPTION + sheets.GAP


def test_failures_stand_on_the_sheet_and_charts_are_only_named():
    failed = sheets.SheetRow(title="train", seconds=1.0, error="no memory")
    charts = sheets.SheetRow(title="evaluate", seconds=7.0)
    assert places(sheets.draw([row("fill", 1), failed]), sheets.ALARM).size
    plain, noted = sheets.draw([row("fill", 1)]), sheets.draw([row("fill", 1), charts])
    assert noted.height == plain.height + sheets.FOOT_LINE
