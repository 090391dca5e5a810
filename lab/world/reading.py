"""Reading the words of an image: each cell is matched with every letter of every font."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import SIZE
from .lettering import CELL_HEIGHT, CELL_WIDTH, LETTERS, glyph_atlas

_REACH = 2
_MIN_CONTRAST = 0.5
_MIN_MATCH = 0.6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What stands in the cells of a batch of images.

    Example: ``read_words(matte, scenes.letters, scenes.box).letters``  # [B, 4]
    """

    letters: Tensor
    """Int64 `[B, 4]`: the letter read, -1 where none is legible or there is no cell."""
    match: Tensor
    """Float32 `[B, 4]`: correlation with the best letter, 0 where there is no cell."""
    target_match: Tensor
    """Float32 `[B, 4]`: correlation with the best font of the requested letter."""
    coverage: Tensor
    """Float32 `[B, 64, 64]`: the letters read, as coverage."""


def _cells(matte: Tensor, cells: Tensor, box: Tensor) -> Tensor:
    """Cut every cell at all shifts up to 2 pixels: `[N, 25, 384]`."""
    padded = F.pad(matte, (_REACH,) * 4)
    windows = []
    for row, slot in cells.tolist():
        left, top = int(box[row, 0]) + slot * CELL_WIDTH, int(box[row, 1])
        windows.append(
            padded[row, top : top + CELL_HEIGHT + 2 * _REACH, left : left + CELL_WIDTH + 2 * _REACH]
        )
    stacked = torch.stack(windows)[:, None]  # [N, 1, 28, 20]
    return F.unfold(stacked, (CELL_HEIGHT, CELL_WIDTH)).transpose(1, 2)


def read_words(matte: Tensor, letters: Tensor, box: Tensor) -> Reading:
    """Read the words.

    Args:
        matte: Coverage by the words' colour, float32 `[B, 64, 64]` in 0..1.
        letters: The requested letters, int64 `[B, 4]`; -1 where there is no cell.
        box: Int64 `[B, 4]`, where the words stand.
    """
    cells = (letters >= 0).nonzero()
    rows, slots = cells.unbind(1)
    matches = _match_cells(_cells(matte, cells, box)) if len(cells) else _NO_MATCHES
    # From a list of cells `[N]` back to words `[B, 4]`.
    read = torch.full(letters.shape, -1)
    match, target_match = torch.zeros(letters.shape), torch.zeros(letters.shape)
    read[rows, slots] = torch.where(matches.best >= _MIN_MATCH, matches.letter, -1)
    match[rows, slots] = matches.best
    target = letters[rows, slots][:, None]
    target_match[rows, slots] = matches.per_letter.gather(1, target)[:, 0]
    # Draw the letters as they were read.
    coverage = torch.zeros(len(letters), SIZE, SIZE)
    for k, (row, slot) in enumerate(cells.tolist()):
        down, right = divmod(int(matches.shift[k]), 2 * _REACH + 1)
        left = int(box[row, 0]) + slot * CELL_WIDTH + right - _REACH
        glyph = glyph_atlas()[matches.font[k], matches.letter[k]]
        _stamp(coverage[row], glyph, int(box[row, 1]) + down - _REACH, left)
    return Reading(letters=read, match=match, target_match=target_match, coverage=coverage)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Matches:
    """The best letter, font and shift of every cell, `[N]`; the best match per letter `[N, 26]`."""

    best: Tensor
    letter: Tensor
    font: Tensor
    shift: Tensor
    per_letter: Tensor


_NO_MATCHES = _Matches(
    best=torch.zeros(0),
    letter=torch.zeros(0, dtype=torch.long),
    font=torch.zeros(0, dtype=torch.long),
    shift=torch.zeros(0, dtype=torch.long),
    per_letter=torch.zeros(0, len(LETTERS)),
)


def _match_cells(windows: Tensor) -> _Matches:
    """Correlate cells at all shifts `[N, 25, 384]` with every letter of every font."""
    fonts = len(glyph_atlas())
    forms = glyph_atlas().transpose(0, 1).reshape(len(LETTERS) * fonts, -1)
    forms = forms - forms.mean(1, keepdim=True)
    sizes = forms.norm(dim=1)
    windows = windows - windows.mean(2, keepdim=True)
    product = windows @ (forms / sizes[:, None]).T  # [N, 25, 26 * fonts]
    correlation = product / windows.norm(dim=2, keepdim=True).clamp(min=1e-3)
    # Faint or absent letters correlate too; their contrast gives them away.
    correlation = torch.where(product / sizes >= _MIN_CONTRAST, correlation.clamp(max=1), 0.0)
    best, index = correlation.flatten(1).max(1)
    form = index % correlation.shape[2]
    return _Matches(
        best=best,
        letter=form // fonts,
        font=form % fonts,
        shift=index // correlation.shape[2],
        per_letter=correlation.amax(1).view(-1, len(LETTERS), fonts).amax(2),
    )


def _stamp(canvas: Tensor, glyph: Tensor, top: int, left: int) -> None:
    """Add a glyph to a canvas `[64, 64]` in place, cut off at its frame."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + CELL_HEIGHT, SIZE), min(left + CELL_WIDTH, SIZE)
    visible = glyph[y0 - top : y1 - top, x0 - left : x1 - left]
    area = canvas[y0:y1, x0:x1]
    torch.maximum(area, visible, out=area)
