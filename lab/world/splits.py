"""Train, dev and test: seeds and styles, fixed for good.

The seeds and tables below define what was ever trained on; changing one makes every published
number of the world incomparable. Test scenes use background palettes, layouts and fonts that
train and dev lack.
"""

from dataclasses import dataclass
from enum import Enum

import torch

_SCENES_PER_SPLIT = 1_000_000_000


class Split(Enum):
    """Which part of the world a scene belongs to.

    Example: ``Split("dev") is Split.DEV``.
    """

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitStyle:
    """The visual style of a split's scenes.

    Example: ``style_of(Split.TEST).fonts``.
    """

    palette: tuple[tuple[float, float, float], ...]
    """Background colours, RGB in 0..1."""
    layouts: tuple[str, ...]
    """Names of background layouts, see `backgrounds`."""
    fonts: tuple[int, ...]
    """Rows of the glyph atlas."""


_TRAIN_STYLE = SplitStyle(
    palette=(
        (0.62, 0.74, 0.86),
        (0.80, 0.70, 0.58),
        (0.66, 0.78, 0.62),
        (0.86, 0.74, 0.78),
        (0.72, 0.68, 0.84),
        (0.55, 0.62, 0.60),
        (0.84, 0.82, 0.68),
        (0.60, 0.52, 0.46),
        (0.48, 0.58, 0.70),
        (0.74, 0.84, 0.84),
    ),
    layouts=("flat", "gradient", "stripes", "checker", "horizon"),
    fonts=(0, 1, 2, 3, 4),
)
_TEST_STYLE = SplitStyle(
    palette=(
        (0.70, 0.80, 0.74),
        (0.78, 0.66, 0.68),
        (0.58, 0.66, 0.80),
        (0.82, 0.78, 0.60),
        (0.52, 0.54, 0.52),
        (0.68, 0.60, 0.74),
    ),
    layouts=("flat", "gradient", "stripes", "checker", "horizon", "slope", "plaid"),
    fonts=(5, 6),
)
_STYLES = {Split.TRAIN: _TRAIN_STYLE, Split.DEV: _TRAIN_STYLE, Split.TEST: _TEST_STYLE}
_SEEDS = {Split.TRAIN: 0, Split.DEV: 1, Split.TEST: 2}


def style_of(split: Split) -> SplitStyle:
    """Return the visual style of a split's scenes."""
    return _STYLES[split]


def scene_generator(split: Split, index: int) -> torch.Generator:
    """Return the generator of batch `index` of a split; no two splits ever share a seed.

    Raises:
        ValueError: If `index` is outside 0..10^9 - 1.
    """
    if not 0 <= index < _SCENES_PER_SPLIT:
        raise ValueError(f"scene batch {index} does not exist; use 0 to {_SCENES_PER_SPLIT - 1}")
    seed = _SEEDS[split] * _SCENES_PER_SPLIT + index
    return torch.Generator().manual_seed(seed)
