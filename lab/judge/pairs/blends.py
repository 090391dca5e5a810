"""Images between candidates: endless results of one scene, each with the oracle's own scores.

A model makes a few candidates per scene, and slowly. Mixing two of them, all over or place by
place, gives results with as much of each one's artifacts as chance wants; the oracle scores them
exactly, a hundred times faster than a model could paint them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...oracle import composite, judge
from ...world.canvas import SIZE
from ...world.conditions import Conditions, join_conditions
from .candidates import FULL, ONE_STEP, Candidates
from .comparisons import Comparison, as_comparison, sample_groups
from .gather import scenes_of

_PLAIN, _EVEN = 0.35, 0.6
"""Chance of an unmixed image, and of that or an even mixture; the rest varies in place."""
_MODELS_OWN = 0.5
"""Chance of a scene that only the model's own images are mixed: their differences are fine ones,
which injected artifacts and patterns beside them would drown."""
_PLACES = 4
"""Places along an axis that a mixture varies between."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blends:
    """Mixed results, `G` scenes times `P` images, the images of a scene together."""

    images: Tensor
    """Float32 `[G P, 3, 64, 64]` in 0..1."""
    conditions: Conditions
    """Their scenes, `G P`."""
    rows: Tensor
    """Int64 `[G P]`: their groups among the candidates."""


def scenes_of_all(paths: Sequence[Path], num: int) -> Conditions:
    """Draw the scenes again of all groups of files that hold `num` each."""
    return join_conditions([scenes_of(path, num) for path in paths])


def sample_blends(
    pool: Candidates, scenes: Conditions, rows: Tensor, num: int, generator: torch.Generator
) -> Blends:
    """Draw `num` results for each of the groups `rows` (int64 `[G]`)."""
    scenes_drawn, rows = len(rows), rows.repeat_interleave(num)
    total, kinds = len(rows), pool.images.shape[1]
    own = ((pool.kinds == FULL) | (pool.kinds == ONE_STEP)).nonzero()[:, 0]
    members = torch.randint(kinds, (2, total), generator=generator)
    if len(own):
        is_own = torch.rand(scenes_drawn, generator=generator) < _MODELS_OWN
        chosen = torch.randint(len(own), (2, total), generator=generator)
        members = torch.where(is_own.repeat_interleave(num), own[chosen], members)
    first, second = (pool.images[rows, member].float() / 255 for member in members)
    images = torch.lerp(first, second, _draw_weights(total, generator))
    return Blends(images=images, conditions=scenes.select(rows), rows=rows)


def _draw_weights(num: int, generator: torch.Generator) -> Tensor:
    """Return how much of the second image shows, `[num, 1, 64, 64]` in 0..1."""
    luck, level, steep = torch.rand(3, num, 1, 1, 1, generator=generator)
    coarse = torch.rand(num, 1, _PLACES, _PLACES, generator=generator)
    smooth = F.interpolate(coarse, SIZE, mode="bicubic", align_corners=True)
    places = ((smooth - level) * (4 + 36 * steep)).sigmoid()
    return torch.where(luck < _PLAIN, 0.0, torch.where(luck < _EVEN, level, places))


def blended_pairs(
    pool: Candidates,
    scenes: Conditions,
    num: int,
    margins: Sequence[float],
    generator: torch.Generator,
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw at most `num` pairs of mixed results that differ clearly; as `mixed_pairs`."""
    rows = sample_groups(pool, num, generator)
    made = sample_blends(pool, scenes, rows, 2, generator)
    return mixed_pairs(made, judge(made.images, made.conditions).table, margins)


def mixed_pairs(
    made: Blends, scores: Tensor, margins: Sequence[float]
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Compare two results of every scene.

    Args:
        made: Two images per scene.
        scores: Float32 `[2 N, D]`, NaN where a task is not judged on a dimension.
        margins: Least difference that counts.

    Returns:
        The comparisons of those that differ clearly, their images, float32
        `[M, 2, 3, 64, 64]` in 0..1, and their masks, float32 `[M, 64, 64]`.
    """
    images = composite(made.images, made.conditions)
    images = images.view(-1, 2, *images.shape[1:])
    pairs = scores.view(len(images), 2, -1)
    found = [
        as_comparison(
            int(made.conditions.task[2 * n]), made.conditions.prompts[2 * n], gaps, margins
        )
        for n, gaps in enumerate((pairs[:, 0] - pairs[:, 1]).tolist())
    ]
    kept = [n for n, one in enumerate(found) if one is not None]
    masks = made.conditions.mask[::2][kept]
    return [one for one in found if one is not None], images[kept], masks
