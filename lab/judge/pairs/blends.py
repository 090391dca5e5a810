"""Blends of two candidates: any number of results per scene, each scored by the oracle.

A model makes a few candidates per scene, and slowly. Blending two of them, evenly or varying in
space, gives results with a random share of each one's artifacts; the oracle scores them exactly, a
hundred times faster than a model samples.
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
from .candidate_pool import scenes_of
from .candidates import FULL, ONE_STEP, Candidates
from .comparisons import Comparison, as_comparison, sample_groups

_PLAIN, _EVEN = 0.35, 0.6
"""Probability of an unblended image, and of that or an even blend; the others vary in space."""
_SAMPLES_ONLY = 0.5
"""Probability of a scene that only sampled images are blended: their differences are fine, and
injected artifacts and patterns beside them would dominate."""
_GRID = 4
"""Points along an axis that the blend weight is interpolated between."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blends:
    """Synthesized results, `G` scenes times `P` images, the images of a scene together.

    Example: ``judge(blends.images, blends.conditions).table``  # [G P, D]
    """

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
    num_scenes, rows = len(rows), rows.repeat_interleave(num)
    total, num_members = len(rows), pool.images.shape[1]
    sampled = ((pool.kinds == FULL) | (pool.kinds == ONE_STEP)).nonzero()[:, 0]
    members = torch.randint(num_members, (2, total), generator=generator)
    if len(sampled):
        samples_only = torch.rand(num_scenes, generator=generator) < _SAMPLES_ONLY
        picks = torch.randint(len(sampled), (2, total), generator=generator)
        members = torch.where(samples_only.repeat_interleave(num), sampled[picks], members)
    first, second = (pool.images[rows, member].float() / 255 for member in members)
    images = torch.lerp(first, second, _draw_weights(total, generator))
    return Blends(images=images, conditions=scenes.select(rows), rows=rows)


def _draw_weights(num: int, generator: torch.Generator) -> Tensor:
    """Return how much of the second image shows, `[num, 1, 64, 64]` in 0..1."""
    luck, level, steep = torch.rand(3, num, 1, 1, 1, generator=generator)
    coarse = torch.rand(num, 1, _GRID, _GRID, generator=generator)
    smooth = F.interpolate(coarse, SIZE, mode="bicubic", align_corners=True)
    varying = ((smooth - level) * (4 + 36 * steep)).sigmoid()
    return torch.where(luck < _PLAIN, 0.0, torch.where(luck < _EVEN, level, varying))


def blended_pairs(
    pool: Candidates,
    scenes: Conditions,
    num: int,
    margins: Sequence[float],
    generator: torch.Generator,
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw at most `num` pairs of blends that differ clearly; returns as `pairs_of`."""
    rows = sample_groups(pool, num, generator)
    blends = sample_blends(pool, scenes, rows, 2, generator)
    return pairs_of(blends, judge(blends.images, blends.conditions).table, margins)


def pairs_of(
    results: Blends, scores: Tensor, margins: Sequence[float]
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Compare two results of every scene.

    Args:
        results: Two images per scene.
        scores: Float32 `[2 N, D]`, NaN where a task is not judged on a dimension.
        margins: Least difference that counts.

    Returns:
        The comparisons of those that differ clearly, their images, float32
        `[M, 2, 3, 64, 64]` in 0..1, and their masks, float32 `[M, 64, 64]`.
    """
    conditions = results.conditions
    images = composite(results.images, conditions)
    images = images.view(-1, 2, *images.shape[1:])  # [N, 2, 3, 64, 64]
    pair_scores = scores.view(len(images), 2, -1)
    comparisons, rows = [], []
    for row, gaps in enumerate((pair_scores[:, 0] - pair_scores[:, 1]).tolist()):
        task, prompt = int(conditions.task[2 * row]), conditions.prompts[2 * row]
        comparison = as_comparison(task, prompt, gaps, margins)
        if comparison is not None:
            comparisons.append(comparison)
            rows.append(row)
    return comparisons, images[rows], conditions.mask[::2][rows]
