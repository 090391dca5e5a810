"""Unusable images that try to win against usable ones of their scene, while the judge learns.

Only here is an attack sure to leave the right answer as it was: between two images that differ
finely, a change of a few levels per pixel may well decide which is better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....reward.qwen_vl import QwenJudge
from ...oracle import judge
from ..config import CompareConfig
from .attacks import Ascent, attack
from .candidates import FULL, ONE_STEP, TRUTH, Candidates
from .comparisons import Comparison, as_comparison
from .deformed import fresh_scenes, sample_deformed

_MOST_DEFORMED = 3
"""Deformed truths that are tried for one that is unusable."""
_GOOD = (FULL, ONE_STEP, TRUTH)


def pool_adversarial_pairs(
    pool: Candidates, num: int, margins: Sequence[float], generator: torch.Generator
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw adversarial_pairs among candidates, from scenes that have an unusable and a usable one.

    Args:
        pool: The candidates.
        num: How many.
        margins: Least difference of the scores that counts, per dimension of the oracle.
        generator: Decides which.

    Returns:
        The comparisons, their images, float32 `[N, 2, 3, 64, 64]` in 0..1, the unusable one
        first, and their masks, float32 `[N, 64, 64]`. The usable one wins in every dimension in
        which the scores hardly differ, so that no answer is left to be raised for nothing.
    """
    good = pool.usable & torch.isin(pool.kinds, torch.tensor(_GOOD))
    open_groups = (good.any(1) & ~pool.usable.all(1)).nonzero()[:, 0]
    if not len(open_groups):
        return [], torch.zeros(0, 2, *pool.images.shape[2:]), torch.zeros(0, *pool.masks.shape[1:])
    groups = open_groups[torch.randint(len(open_groups), (num,), generator=generator)]
    places = torch.stack(
        [
            torch.multinomial(of_kind[groups].float(), 1, generator=generator)[:, 0]
            for of_kind in (~pool.usable, good)
        ],
        1,
    )
    drawn = [
        _adversarial_pair(
            int(pool.task[group]),
            pool.prompts[group],
            (pool.scores[group, bad] - pool.scores[group, usable]).float(),
            margins,
        )
        for group, (bad, usable) in zip(groups.tolist(), places.tolist(), strict=True)
    ]
    images = pool.images[groups[:, None], places].float() / 255
    return drawn, images, pool.masks[groups].float()


def deformed_adversarial_pairs(
    number: int, num: int, margins: Sequence[float], generator: torch.Generator
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw at most `num` unusable deformed truths against the truth; as `pool_adversarial_pairs`."""
    scenes = fresh_scenes(number, _MOST_DEFORMED * num)
    made = sample_deformed(scenes, 1, generator)
    bad, truth = judge(made.images, scenes), judge(scenes.target, scenes)
    rows = (~bad.usable & truth.usable).nonzero()[:num, 0]
    gaps = bad.table - truth.table
    drawn = [
        _adversarial_pair(int(scenes.task[row]), scenes.prompts[row], gaps[row], margins)
        for row in rows.tolist()
    ]
    return drawn, torch.stack([made.images[rows], scenes.target[rows]], 1), scenes.mask[rows]


def _adversarial_pair(task: int, prompt: str, gaps: Tensor, margins: Sequence[float]) -> Comparison:
    found = as_comparison(task, prompt, gaps.tolist(), margins, better=1)
    assert found is not None  # every dimension has a winner
    return found


def round_of(step: int, config: CompareConfig) -> tuple[int, int]:
    """Return whose turn it is: a step's place among the standing adversarial_pairs, and when they began.

    A place comes up every `adversarial_every` steps and gets other adversarial_pairs after `adversarial_visits` of
    these, each place at another time, so that old and new ones are always about.

    Source: H. Zheng et al., "Efficient adversarial training with transferable adversarial
    examples" (2020): what an attack found is where the next one starts.
    """
    every, visits = config.adversarial_every, config.adversarial_visits
    place, visit = step % every, step // every
    age = (visit + place * visits // every) % visits
    return place, max(visit - age, 0) * every + place


def push(
    judge: QwenJudge,
    drawn: Sequence[Comparison],
    images: Tensor,
    masks: Tensor,
    config: CompareConfig,
    start: Tensor,
) -> Tensor:
    """Change the first of two images so that the judge prefers it; as `pool_adversarial_pairs` returns.

    Args:
        judge: The judge.
        drawn: What they are compared on.
        images: float32 `[N, 2, 3, 64, 64]` in 0..1.
        masks: float32 `[N, 64, 64]`, 1 = may be changed.
        config: Steps, stride and size.
        start: Where the ascent starts: the first of them, changed; `[N, 3, 64, 64]`.
    """
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        good = judge.encode_images(list(images[:, 1]))

    def climb(moved: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            bad = judge.encode_images(list(moved))
            asked = [
                (first, second, query)
                for first, second, one in zip(bad, good, drawn, strict=True)
                for query, _ in one.queries()
            ]
            return judge.answer(asked)[:, 0].sum()

    ascent = Ascent(config.adversarial_steps, config.attack_size, config.adversarial_step_size)
    moved = attack(climb, images[:, 0], masks[:, None], ascent, start)
    return torch.stack([moved, images[:, 1]], 1)
