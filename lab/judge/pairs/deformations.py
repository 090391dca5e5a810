"""Deformed truths: any number of scenes, each with a result that the oracle scores.

A pool of candidates has a few thousand scenes, and a judge overfits to them. A new scene costs a
millisecond. Its true result is deformed slightly in the ways in which models err: outlines that are
displaced, scaled, softened, broken or turned into another shape, colours and tones that drift or
glare, halos, grain, remainders. The oracle scores it exactly, and no scene occurs twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...oracle import composite, judge
from ...world.canvas import SIZE, blend, dilate, soft_edge
from ...world.conditions import TASKS, Conditions, sample_conditions
from ...world.shapes import COLOUR_VALUES, SHAPE_NAMES, shape_distance
from ...world.splits import Split
from .blends import Blends, pairs_of
from .comparisons import TURNS, Comparison

_FIRST_INDEX = 500_000_000
"""Scenes that nothing else is drawn from."""
_REACH, _SHIFT, _SCALE = 4.0, 2.0, 0.2
"""Largest displacement of an outline and of a whole object, in pixels; largest change of its size,
a share."""
_TINT, _TONE, _GRAIN, _GLARE = 0.25, 0.15, 0.04, 1.5
"""Largest change of the object's colour and of the tone, and standard deviation of grain, 0..1;
largest factor by which the difference from the surroundings is exaggerated."""
_FINE = 0.5
"""Share of scenes whose images have small errors only: large errors would dominate small ones."""
_MORPHED = 0.3
"""Share of scenes whose images show partly another shape, or another colour: only the prompt tells
which one is right."""
_HALO = 9
"""Side of the surroundings that a glare stands out from, in pixels."""


def fresh_scenes(index: int, count: int) -> Conditions:
    """Draw batch `index` of scenes of the train split that nothing else uses, tasks in turn."""
    turns = torch.tensor(TURNS)
    tasks = turns[(index + torch.arange(count)) % len(turns)]
    return sample_conditions(Split.TRAIN, _FIRST_INDEX + index, tasks)


def sample_deformations(scenes: Conditions, num: int, generator: torch.Generator) -> Blends:
    """Draw `num` results for each scene, all with different errors."""
    rows = torch.arange(len(scenes)).repeat_interleave(num)
    conditions = scenes.select(rows)
    draw = _Strengths(len(scenes), num, generator)
    # The object: its outline, `[N, 64, 64]`, and its colour.
    outline = _morph_shapes(conditions, draw)[:, None]
    coverage = _warp(outline, _centroid(outline), draw)
    coverage = _soften(_break_up(coverage, draw), draw)[:, 0]
    object_colour = _morph_colours(conditions, draw)
    object_colour = object_colour + draw.some(0.4).flatten(1) * _TINT * draw.normal(3)
    painted = blend(conditions.background, coverage, object_colour)
    has_object = outline.sum((1, 2, 3), keepdim=True) > 0
    # The whole image, `[N, 3, 64, 64]`: warped, or with a remainder of what was removed.
    images = torch.where(has_object, painted, conditions.target)
    warped = _warp(images, torch.zeros(len(rows), 1, 1, 2), draw)
    images = torch.where(draw.chance(0.2), warped, images)
    images = torch.lerp(images, conditions.source, _remainder(conditions, draw))
    # Tone, grain, blur and glare.
    tone = draw.coarse(3, 4) * _TONE * draw.some(0.7)
    grain = draw.normal(3, SIZE, SIZE) * _GRAIN * draw.some(0.5)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, soft, draw.some(0.4)) + tone + grain
    around = F.avg_pool2d(images, _HALO, 1, _HALO // 2, count_include_pad=False)
    images = images + draw.some(0.3) * _GLARE * (images - around)
    return Blends(images=composite(images, conditions), conditions=conditions, rows=rows)


def deformed_pairs(
    index: int, count: int, margins: Sequence[float], generator: torch.Generator
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw at most `count` pairs of deformed results that differ clearly; as `blended_pairs`."""
    results = sample_deformations(fresh_scenes(index, count), 2, generator)
    return pairs_of(results, judge(results.images, results.conditions).table, margins)


class _Strengths:
    """Random strengths, one per image: none at all in some, mostly small in the others."""

    def __init__(self, scenes: int, per_scene: int, generator: torch.Generator) -> None:
        self.scenes, self.per_scene, self.generator = scenes, per_scene, generator
        self.count = scenes * per_scene
        luck, level = torch.rand(2, scenes, generator=generator)
        most = torch.where(luck < _FINE, 0.1 + 0.4 * level, 1.0)
        self._most = most.repeat_interleave(per_scene).view(-1, 1, 1, 1)

    def chance(self, share: float) -> Tensor:
        """Return bool `[N, 1, 1, 1]`."""
        return torch.rand(self.count, 1, 1, 1, generator=self.generator) < share

    def some(self, share: float) -> Tensor:
        """Return `[N, 1, 1, 1]` in 0..1, small ones more often; 0 in all but a share."""
        level = torch.rand(self.count, 1, 1, 1, generator=self.generator).square()
        return level * self.chance(share) * self._most

    def of_scenes(self, choices: int) -> Tensor:
        """Return one of so many choices, int64 `[N]`, the same for all images of a scene."""
        choice = torch.randint(choices, (self.scenes,), generator=self.generator)
        return choice.repeat_interleave(self.per_scene)

    def shares(self) -> Tensor:
        """Return shares `[N]` in 0..1 in some of the scenes, 0 in the others: none, all or some."""
        is_morphed = torch.rand(self.scenes, generator=self.generator) < _MORPHED
        level = 2 * torch.rand(self.count, generator=self.generator) - 0.5
        return level.clamp(0, 1) * is_morphed.repeat_interleave(self.per_scene)

    def normal(self, channels: int, *shape: int) -> Tensor:
        """Return standard normal values, `[N, C]` or `[N, C, *shape]`."""
        return torch.randn(self.count, channels, *shape, generator=self.generator)

    def coarse(self, channels: int, points: int) -> Tensor:
        """Return a smooth random field `[N, C, 64, 64]`, standard normal on a coarse grid."""
        values = self.normal(channels, points, points)
        return F.interpolate(values, SIZE, mode="bicubic", align_corners=True)


def _morph_shapes(conditions: Conditions, draw: _Strengths) -> Tensor:
    """Morph the shapes of some scenes partly into another one; coverage `[N, 64, 64]`."""
    shape, share = draw.of_scenes(len(SHAPE_NAMES)), draw.shares()
    x, y, radius = conditions.placement.unbind(1)
    start = shape_distance(conditions.shape.clamp(min=0), x, y, radius)
    between = torch.lerp(start, shape_distance(shape, x, y, radius), share[:, None, None])
    is_morphed = (conditions.shape >= 0) & (share > 0)
    return torch.where(is_morphed[:, None, None], soft_edge(between), conditions.coverage)


def _morph_colours(conditions: Conditions, draw: _Strengths) -> Tensor:
    """Return object colours `[N, 3]`, in some scenes mixed with another colour of the palette."""
    colour = COLOUR_VALUES[draw.of_scenes(len(COLOUR_VALUES))]
    share = draw.shares()[:, None] * (conditions.shape >= 0)[:, None]
    return torch.lerp(conditions.object_colour, colour, share)


def _warp(planes: Tensor, centre: Tensor, draw: _Strengths) -> Tensor:
    """Move, scale and bend planes `[N, C, 64, 64]` about a centre `[N, 1, 1, 2]`, -1..1."""
    scale = 1 + _SCALE * (2 * draw.some(0.5) - draw.some(0.5))
    shift = _SHIFT * (draw.coarse(2, 1) * draw.some(0.5))
    bend = draw.coarse(2, 4) * draw.some(0.6) + draw.coarse(2, 9) * draw.some(0.6)
    offset = (shift + _REACH / 2 * bend) / (SIZE / 2)
    centres = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    grid = centre + (torch.stack([x, y], -1) - centre) * scale + offset.permute(0, 2, 3, 1)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def _centroid(planes: Tensor) -> Tensor:
    """Return the centroid of planes `[N, 1, 64, 64]`: `[N, 1, 1, 2]`, -1..1."""
    centres = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    weight = planes.sum((1, 2, 3)).clamp(min=1e-6)
    x, y = (planes[:, 0].sum(axis) @ centres / weight for axis in (1, 2))
    return torch.stack([x, y], -1)[:, None, None]


def _break_up(coverage: Tensor, draw: _Strengths) -> Tensor:
    """Add lumps near an object, and cut pieces out of it."""
    lumps, bites = (
        ((draw.coarse(1, 12) - 1.2) * 12).sigmoid() * draw.some(0.4).sqrt() for _ in range(2)
    )
    near = dilate(coverage[:, 0], 4)[:, None]
    return torch.maximum(coverage, lumps * near) * (1 - bites)


def _soften(coverage: Tensor, draw: _Strengths) -> Tensor:
    soft = F.avg_pool2d(coverage, 3, 1, 1, count_include_pad=False)
    softer = F.avg_pool2d(soft, 3, 1, 1, count_include_pad=False)
    return torch.lerp(coverage, softer, draw.some(0.7))


def _remainder(conditions: Conditions, draw: _Strengths) -> Tensor:
    """Return the share of the source that remains in a removal, `[N, 1, 64, 64]`; else 0."""
    is_removal = (conditions.task == TASKS.index("remove"))[:, None, None, None]
    patches = ((draw.coarse(1, 5) - 0.5) * 6).sigmoid()
    return is_removal * patches * draw.some(0.6)
