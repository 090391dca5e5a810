"""Words of one to four capital letters, set in 16x24 cells from an atlas of real fonts."""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .canvas import SIZE, Draw
from .splits import SplitStyle

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CELL_WIDTH, CELL_HEIGHT = 16, 24
MAX_LETTERS = SIZE // CELL_WIDTH
_LENGTH_WEIGHTS = (0.2, 0.3, 0.3, 0.2)
_FINE_GRID_SHARE = 0.25


@lru_cache(maxsize=1)
def glyph_atlas() -> Tensor:
    """Return the coverage of every letter of every font, float32 `[fonts, 26, 24, 16]`."""
    path = Path(__file__).parent / "data" / "glyphs.safetensors"
    return load_file(path)["glyphs"].float() / 255


def sample_words(draw: Draw) -> tuple[list[str], Tensor]:
    """Draw a word per scene; also its letters as int64 `[B, 4]`, -1 after the last one."""
    length = draw.weighted(_LENGTH_WEIGHTS) + 1
    letters = torch.stack([draw.integer(0, len(LETTERS)) for _ in range(MAX_LETTERS)], 1)
    letters[torch.arange(MAX_LETTERS) >= length[:, None]] = -1
    return [_spell(row) for row in letters.tolist()], letters


def _spell(row: list[int]) -> str:
    return "".join(LETTERS[letter] for letter in row if letter >= 0)


def sample_word_boxes(draw: Draw, letters: Tensor) -> Tensor:
    """Place each word: int64 boxes `[B, 4]` (x0, y0, x1, y1).

    Three quarters start on a grid of 8 pixels, one token of the model; the rest on 4.
    """
    grid = torch.where(draw.chance(_FINE_GRID_SHARE), 4, 8)
    width = (letters >= 0).sum(1) * CELL_WIDTH
    x0 = (draw.uniform(0, 1) * ((SIZE - width) // grid + 1)).long() * grid
    y0 = (draw.uniform(0, 1) * ((SIZE - CELL_HEIGHT) // grid + 1)).long() * grid
    return torch.stack([x0, y0, x0 + width, y0 + CELL_HEIGHT], 1)


def word_coverage(letters: Tensor, box: Tensor, font: Tensor) -> Tensor:
    """Set the words: coverage float32 `[B, 64, 64]`."""
    atlas = glyph_atlas()
    coverage = torch.zeros(len(letters), SIZE, SIZE)
    for row, slot in (letters >= 0).nonzero().tolist():
        left, top = int(box[row, 0]) + slot * CELL_WIDTH, int(box[row, 1])
        glyph = atlas[font[row], letters[row, slot]]
        coverage[row, top : top + CELL_HEIGHT, left : left + CELL_WIDTH] = glyph
    return coverage


def sample_fonts(draw: Draw, style: SplitStyle) -> Tensor:
    """Draw a font of the split per scene, int64 `[B]`."""
    return torch.tensor(style.fonts)[draw.integer(0, len(style.fonts))]
