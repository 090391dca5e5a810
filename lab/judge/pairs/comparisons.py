"""Pairs of candidates: which two images of a scene are compared, and which one wins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ....fill.task import Dimension, Task
from ....reward.query import Query
from ...oracle import DIMENSIONS
from ...world.conditions import TASKS
from .candidates import ARTIFACT, FULL, KINDS, ONE_STEP, PATTERN, TRUTH, Candidates

_MIX = (
    ((FULL,), (FULL,), 0.4),
    ((ONE_STEP,), (FULL,), 0.3),  # what the policy is rewarded for
    ((ONE_STEP,), (ONE_STEP,), 0.1),
    ((ARTIFACT,), (FULL, TRUTH), 0.2),
)
"""Kinds of the two images and their shares, beside the patterns."""
TURNS = tuple(
    TASKS.index(name)
    for name in ("fill", "extend", "text", "fill", "extend", "remove", "fill", "extend")
)
"""Tasks of the scenes in turn: outlines are harder to judge than removals and words."""
_VISIBLE = 3
"""Least mean change of a pattern under the mask that counts, of 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two images of a group, and for every clear difference which one wins.

    Example: ``next(best_and_worst(pool, margins)).queries()``.
    """

    group: int
    """Index of the scene among the candidates; -1 for another scene."""
    images: tuple[int, int]
    """Indices among the group's candidates; -1 for other images."""
    task: Task
    prompt: str
    winners: tuple[tuple[Dimension, int], ...]
    """Dimension, and 0 or 1: the index of the better image in the pair."""

    def queries(self) -> list[tuple[Query, int]]:
        """Return each question with the index of the better image."""
        return [(Query(self.task, d, self.prompt), better) for d, better in self.winners]


def compare(
    pool: Candidates, group: int, images: tuple[int, int], margins: Sequence[float]
) -> Comparison | None:
    """Compare two images of a group; None if they hardly differ in any dimension.

    A pattern counts as an artifact in every dimension: a judge that accepts it in one of them could
    be exploited through that one.
    """
    gaps = (pool.scores[group, images[0]] - pool.scores[group, images[1]]).float()  # [D]
    patterned = [
        index
        for index in (0, 1)
        if pool.pattern_base[group, images[index]] == images[1 - index]
        and _is_visible(pool, group, images)
    ]
    better = 1 - patterned[0] if patterned else None
    comparison = as_comparison(
        int(pool.task[group]), pool.prompts[group], gaps.tolist(), margins, better
    )
    return None if comparison is None else replace(comparison, group=group, images=images)


def as_comparison(
    task: int,
    prompt: str,
    gaps: Sequence[float],
    margins: Sequence[float],
    better: int | None = None,
) -> Comparison | None:
    """Return which image wins per dimension; None if they hardly differ in any.

    Args:
        task: The scene's, index into the world's `TASKS`.
        prompt: The scene's.
        gaps: Score of the first less that of the second, per dimension of the oracle; NaN where
            the task is not judged on it.
        margins: Least difference that counts.
        better: The index of the image that wins where scores hardly differ; None: neither does.
    """
    winners = []
    for name, gap, margin in zip(DIMENSIONS, gaps, margins, strict=True):
        if gap != gap:  # NaN: the task is not judged on it
            continue
        if abs(gap) >= margin:
            winners.append((Dimension(name), int(gap < 0)))
        elif better is not None:
            winners.append((Dimension(name), better))
    if not winners:
        return None
    return Comparison(
        group=-1,
        images=(-1, -1),
        task=Task(TASKS[task]),
        prompt=prompt,
        winners=tuple(winners),
    )


def _is_visible(pool: Candidates, group: int, images: tuple[int, int]) -> bool:
    first, second = (pool.images[group, m].float() for m in images)  # [3, 64, 64]
    change = (first - second).abs().mean(0)[pool.masks[group] > 0]
    return bool(change.mean() >= _VISIBLE)


def sample_groups(pool: Candidates, num: int, generator: torch.Generator) -> Tensor:
    """Draw groups, int64 `[num]`, tasks as often as in `TURNS`."""
    share = torch.tensor([TURNS.count(task) for task in range(len(TASKS))]).float()
    weights = (share / pool.task.bincount(minlength=len(TASKS)).clamp(min=1))[pool.task]
    return torch.multinomial(weights, num, replacement=True, generator=generator)


def sample_comparisons(
    pool: Candidates,
    num: int,
    margins: Sequence[float],
    generator: torch.Generator,
    pattern_share: float = 0.2,
) -> list[Comparison]:
    """Draw comparisons of all kinds, of the tasks in turn.

    Args:
        pool: The candidates.
        num: How many.
        margins: Least difference that counts, per dimension of the oracle.
        generator: Decides which.
        pattern_share: Share of those drawn (before the margins drop some) that show an image
            against itself under a fine pattern.
    """
    # Shares of the kinds; a patterned image is compared with the image below the pattern.
    mix: list[tuple[tuple[int, ...], tuple[int, ...], float]]
    mix = [(a, b, share * (1 - pattern_share)) for a, b, share in _MIX]
    mix.append(((PATTERN,), (), pattern_share))
    weights = torch.tensor([share for _, _, share in mix])
    # Rows of the pool per turn, starting anywhere.
    turns = [(pool.task == task).nonzero()[:, 0] for task in TURNS]
    turns = [rows for rows in turns if len(rows)]
    first_turn = int(torch.randint(len(turns), (), generator=generator))
    # Draw until enough pairs differ clearly.
    comparisons: list[Comparison] = []
    while len(comparisons) < num:
        luck = torch.rand(3, generator=generator).tolist()
        rows = turns[(first_turn + len(comparisons)) % len(turns)]
        group = int(rows[int(luck[0] * len(rows))])
        kinds = mix[int(torch.multinomial(weights, 1, generator=generator))]
        first = _pick(pool.kinds, kinds[0], luck[1])
        if kinds[1]:
            second = _pick(pool.kinds, kinds[1], luck[2])
        else:
            second = int(pool.pattern_base[group, first])
        comparison = None if first == second else compare(pool, group, (first, second), margins)
        if comparison is not None:
            comparisons.append(comparison)
    return comparisons


def _pick(kinds: Tensor, allowed: tuple[int, ...], luck: float) -> int:
    members = [m for m, kind in enumerate(kinds.tolist()) if kind in allowed]
    return members[int(luck * len(members))]


def sample_dimensions(comparison: Comparison, most: int, generator: torch.Generator) -> Comparison:
    """Keep at most so many of a comparison's dimensions, drawn at random; 0 keeps all."""
    winners = comparison.winners
    if not 0 < most < len(winners):
        return comparison
    subset = torch.randperm(len(winners), generator=generator)[:most].sort().values
    return replace(comparison, winners=tuple(winners[k] for k in subset.tolist()))


def count_pairs(
    pool: Candidates, margins: Sequence[float], kinds: Sequence[int] | None = None
) -> dict[Task, int]:
    """Count, per task, the pairs of images of a group that differ clearly in some dimension.

    Args:
        pool: The candidates.
        margins: Least difference that counts, per dimension of the oracle.
        kinds: Kinds that both images are of; None takes all.
    """
    allowed = list(range(len(KINDS)) if kinds is None else kinds)
    members = torch.isin(pool.kinds, torch.tensor(allowed, dtype=torch.uint8)).nonzero()[:, 0]
    least, totals = torch.tensor(margins), torch.zeros(len(pool), dtype=torch.long)
    for index, first in enumerate(members.tolist()):
        # Against all later ones, `[G, M, D]`.
        gaps = pool.scores[:, [first]].float() - pool.scores[:, members[index + 1 :]].float()
        totals += (gaps.abs() >= least).any(2).sum(1)  # NaN is no difference
    return {Task(name): int(totals[pool.task == k].sum()) for k, name in enumerate(TASKS)}


def best_and_worst(
    pool: Candidates, margins: Sequence[float], kind: int = FULL
) -> Iterator[Comparison]:
    """Yield, per group and dimension, the best against the worst of a kind, as in sec. 4.2."""
    members = (pool.kinds == kind).nonzero()[:, 0]
    for group in range(len(pool)):
        scores = pool.scores[group, members].float()  # [M, D]
        for column, (name, margin) in enumerate(zip(DIMENSIONS, margins, strict=True)):
            values = scores[:, column]
            if values.isnan().any() or float(values.max() - values.min()) < margin:
                continue
            yield Comparison(
                group=group,
                images=(int(members[values.argmax()]), int(members[values.argmin()])),
                task=Task(TASKS[int(pool.task[group])]),
                prompt=pool.prompts[group],
                winners=((Dimension(name), 0),),
            )


def kinds_of_pairs(pool: Candidates, margins: Sequence[float]) -> dict[str, list[Comparison]]:
    """Return held-out comparisons by kind, one per group, beside those of finished images."""
    kinds = pool.kinds.tolist()
    full, one_step, truth, artifact, pattern = map(
        kinds.index, (FULL, ONE_STEP, TRUTH, ARTIFACT, PATTERN)
    )
    comparisons: dict[str, list[Comparison]] = {"one_step": [], "artifact": [], "pattern": []}
    for group in range(len(pool)):
        images_of = {
            "one_step": (one_step, full),
            "artifact": (artifact, truth),
            "pattern": (pattern, int(pool.pattern_base[group, pattern])),
        }
        for name, images in images_of.items():
            comparison = compare(pool, group, images, margins)
            if comparison is not None:
                comparisons[name].append(comparison)
    return comparisons
