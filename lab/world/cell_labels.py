"""Dense labels: what each 8x8 cell of a true result shows.

The VQA stage of the judge and the probe of the base model learn to predict them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import SIZE
from .conditions import Conditions
from .lettering import CELL_WIDTH, LETTERS, MAX_LETTERS
from .shapes import COLOUR_NAMES, COLOUR_VALUES, SHAPE_NAMES

CELL = 8
"""Side of a cell, in pixels."""
LABEL_NAMES = ("symbol", "colour", "position")
"""Shape or letter, colour of the shape, position of the letter in its word."""
LABEL_SIZES = (1 + len(SHAPE_NAMES) + len(LETTERS), 1 + len(COLOUR_NAMES), 1 + MAX_LETTERS)
"""Number of classes of each label; class 0 is none."""

_MIN_COVERED = 0.3


def label_cells(conditions: Conditions) -> Tensor:
    """Label what the prompt asks for in the true result: int64 `[B, 3, 8, 8]`."""
    covered = F.avg_pool2d(conditions.coverage, CELL) > _MIN_COVERED
    shape = conditions.shape[:, None, None]
    has_shape = covered & (shape >= 0)
    colour = torch.cdist(conditions.object_colour, COLOUR_VALUES).argmin(1)[:, None, None]
    position, letter = _letter_cells(conditions)
    symbol = torch.where(letter >= 0, 1 + len(SHAPE_NAMES) + letter, 0)
    return torch.stack(
        [
            torch.where(has_shape, 1 + shape, symbol),
            torch.where(has_shape, 1 + colour, 0),
            1 + position,
        ],
        dim=1,
    )


def _letter_cells(conditions: Conditions) -> tuple[Tensor, Tensor]:
    """Return position and letter of each cell whose centre lies in a word, else -1; `[B, 8, 8]`."""
    centre = torch.arange(CELL // 2, SIZE, CELL)
    x0, y0, x1, y1 = conditions.box[:, :, None, None].unbind(1)
    x, y = centre[None, None, :], centre[None, :, None]
    inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    position = torch.where(inside, (x - x0) // CELL_WIDTH, 0).clamp(0, MAX_LETTERS - 1)
    letter = conditions.letters.gather(1, position.flatten(1)).view_as(position)
    has_letter = inside & (letter >= 0)
    return torch.where(has_letter, position, -1), torch.where(has_letter, letter, -1)
