"""Deformed truths: results of scenes without end, each with the oracle's own scores.

A pool of candidates has a few thousand scenes, and a judge learns those by heart: their scores, not
how to see them. A scene costs a millisecond; its true result, put slightly wrong in the ways in
which models err (outlines that wander, swell, soften, break or turn into another shape's, colours
and tones that drift or glare, halos, grain, leftovers), is scored exactly, and no scene is ever
shown twice.
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
from .blends import Blends, mixed_pairs
from .comparisons import TURNS, Comparison

_FIRST_INDEX = 500_000_000
"""Scenes that nothing else is drawn from."""
_REACH, _SHIFT, _SWELL = 4.0, 2.0, 0.2
"""Most that an outline wanders, in pixels; that a thing is moved, in pixels; that it swells, a share."""
_TINT, _TONE, _GRAIN, _GLARE = 0.25, 0.15, 0.04, 1.5
"""Most that object_colour and ground change colour, and standard deviation of grain, 0..1; most that the
difference from the surroundings is exaggerated, a factor."""
_FINE = 0.5
"""Share of scenes whose images all err a little only: large errors would drown small ones."""
_STRAYS = 0.3
"""Share of scenes whose images show more or less of another shape, or of another colour: only the
prompt says which one was asked for."""
_HALO = 9
"""Side of the surroundings that a glare stands out from, in pixels."""


def fresh_scenes(number: int, count: int) -> Conditions:
    """Draw scenes of the train split that no other number has, tasks in turn from `number` on."""
    turns = torch.tensor(TURNS)
    tasks = turns[(number + torch.arange(count)) % len(turns)]
    return sample_conditions(Split.TRAIN, _FIRST_INDEX + number, tasks)


def sample_deformed(scenes: Conditions, num: int, generator: torch.Generator) -> Blends:
    """Draw `num` results for each scene, all differently wrong."""
    rows = torch.arange(len(scenes)).repeat_interleave(num)
    conditions = scenes.select(rows)
    draw = _Strengths(len(scenes), num, generator)
    thing = _turned(conditions, draw)[:, None]
    coverage = _softened(_broken(_wandered(thing, _middle(thing), draw), draw), draw)[:, 0]
    object_colour = _strayed(conditions, draw)
    object_colour = object_colour + draw.some(0.4).flatten(1) * _TINT * draw.normal(3)
    drawn = blend(conditions.background, coverage, object_colour)
    has_thing = thing.sum((1, 2, 3), keepdim=True) > 0
    images = torch.where(has_thing, drawn, conditions.target)
    whole = _wandered(images, torch.zeros(len(rows), 1, 1, 2), draw)
    images = torch.where(draw.chance(0.2), whole, images)
    images = torch.lerp(images, conditions.source, _leftover(conditions, draw))
    tone = draw.coarse(3, 4) * _TONE * draw.some(0.7)
    grain = draw.normal(3, SIZE, SIZE) * _GRAIN * draw.some(0.5)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, soft, draw.some(0.4)) + tone + grain
    around = F.avg_pool2d(images, _HALO, 1, _HALO // 2, count_include_pad=False)
    images = images + draw.some(0.3) * _GLARE * (images - around)
    return Blends(images=composite(images, conditions), conditions=conditions, rows=rows)


def deformed_pairs(
    number: int, count: int, margins: Sequence[float], generator: torch.Generator
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw at most `count` pairs of deformed results that differ clearly; as `blended_pairs`."""
    made = sample_deformed(fresh_scenes(number, count), 2, generator)
    return mixed_pairs(made, judge(made.images, made.conditions).table, margins)


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
        chosen = torch.randint(choices, (self.scenes,), generator=self.generator)
        return chosen.repeat_interleave(self.per_scene)

    def shares(self) -> Tensor:
        """Return shares `[N]` in 0..1 in some of the scenes, 0 in the others: none, all or some."""
        strays = torch.rand(self.scenes, generator=self.generator) < _STRAYS
        level = 2 * torch.rand(self.count, generator=self.generator) - 0.5
        return level.clamp(0, 1) * strays.repeat_interleave(self.per_scene)

    def normal(self, channels: int, *shape: int) -> Tensor:
        """Return standard normal values, `[N, C]` or `[N, C, *shape]`."""
        return torch.randn(self.count, channels, *shape, generator=self.generator)

    def coarse(self, channels: int, places: int) -> Tensor:
        """Return a smooth random field `[N, C, 64, 64]`, standard normal at its places."""
        values = self.normal(channels, places, places)
        return F.interpolate(values, SIZE, mode="bicubic", align_corners=True)


def _turned(conditions: Conditions, draw: _Strengths) -> Tensor:
    """Turn the shapes of some scenes into another one each, more or less; `[N, 64, 64]`."""
    other, share = draw.of_scenes(len(SHAPE_NAMES)), draw.shares()
    x, y, radius = conditions.place.unbind(1)
    asked = shape_distance(conditions.shape.clamp(min=0), x, y, radius)
    between = torch.lerp(asked, shape_distance(other, x, y, radius), share[:, None, None])
    is_turned = (conditions.shape >= 0) & (share > 0)
    return torch.where(is_turned[:, None, None], soft_edge(between), conditions.coverage)


def _strayed(conditions: Conditions, draw: _Strengths) -> Tensor:
    """Return object_colours, more or less of another colour of the palette in some scenes, `[N, 3]`."""
    other = COLOUR_VALUES[draw.of_scenes(len(COLOUR_VALUES))]
    share = draw.shares()[:, None] * (conditions.shape >= 0)[:, None]
    return torch.lerp(conditions.object_colour, other, share)


def _wandered(planes: Tensor, middle: Tensor, draw: _Strengths) -> Tensor:
    """Move, swell and bend planes `[N, C, 64, 64]` about their middle `[N, 1, 1, 2]`, -1..1."""
    scale = 1 + _SWELL * (2 * draw.some(0.5) - draw.some(0.5))
    shift = _SHIFT * (draw.coarse(2, 1) * draw.some(0.5))
    bend = draw.coarse(2, 4) * draw.some(0.6) + draw.coarse(2, 9) * draw.some(0.6)
    offset = (shift + _REACH / 2 * bend) / (SIZE / 2)
    centres = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    grid = middle + (torch.stack([x, y], -1) - middle) * scale + offset.permute(0, 2, 3, 1)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)


def _middle(planes: Tensor) -> Tensor:
    """Return where the weight of planes `[N, 1, 64, 64]` lies, `[N, 1, 1, 2]`, -1..1."""
    centres = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    weight = planes.sum((1, 2, 3)).clamp(min=1e-6)
    x, y = (planes[:, 0].sum(axis) @ centres / weight for axis in (1, 2))
    return torch.stack([x, y], -1)[:, None, None]


def _broken(coverage: Tensor, draw: _Strengths) -> Tensor:
    """Add lumps near a thing, and bite pieces out of it."""
    lumps, bites = (
        ((draw.coarse(1, 12) - 1.2) * 12).sigmoid() * draw.some(0.4).sqrt() for _ in range(2)
    )
    near = dilate(coverage[:, 0], 4)[:, None]
    return torch.maximum(coverage, lumps * near) * (1 - bites)


def _softened(coverage: Tensor, draw: _Strengths) -> Tensor:
    soft = F.avg_pool2d(coverage, 3, 1, 1, count_include_pad=False)
    softer = F.avg_pool2d(soft, 3, 1, 1, count_include_pad=False)
    return torch.lerp(coverage, softer, draw.some(0.7))


def _leftover(conditions: Conditions, draw: _Strengths) -> Tensor:
    """Return how much of the source stays in a removal, `[N, 1, 64, 64]`; 0 in other tasks."""
    is_removal = (conditions.task == TASKS.index("remove"))[:, None, None, None]
    places = ((draw.coarse(1, 5) - 0.5) * 6).sigmoid()
    return is_removal * places * draw.some(0.6)
