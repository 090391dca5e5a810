"""Adversarial pairs of training: an unusable image, attacked so that it wins, against a usable one.

Only for such pairs an attack is sure not to change the right answer: between two images that differ
finely, a change of a few levels per pixel may well decide which is better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....reward.judge import PairQuestion
from ....reward.vlm.qwen_vl import QwenJudge
from ...oracle import judge
from ..config import CompareConfig
from .attacks import Ascent, attack
from .candidates import FULL, ONE_STEP, TRUTH, Candidates
from .comparisons import Comparison, as_comparison
from .deformations import fresh_scenes, sample_deformations

_DEFORMED_PER_PAIR = 3
"""Deformed truths that are drawn for one that is unusable."""
_GOOD = (FULL, ONE_STEP, TRUTH)


def pool_adversarial_pairs(
    pool: Candidates, num: int, margins: Sequence[float], generator: torch.Generator
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw pairs of candidates, from scenes that have an unusable and a usable one.

    Args:
        pool: The candidates.
        num: How many.
        margins: Least difference of the scores that counts, per dimension of the oracle.
        generator: Decides which.

    Returns:
        The comparisons, their images, float32 `[N, 2, 3, 64, 64]` in 0..1, the unusable one
        first, and their masks, float32 `[N, 64, 64]`. The usable one also wins in every dimension
        in which the scores hardly differ.
    """
    good = pool.usable & torch.isin(pool.kinds, torch.tensor(_GOOD))
    open_groups = (good.any(1) & ~pool.usable.all(1)).nonzero()[:, 0]
    if not len(open_groups):
        return [], torch.zeros(0, 2, *pool.images.shape[2:]), torch.zeros(0, *pool.masks.shape[1:])
    groups = open_groups[torch.randint(len(open_groups), (num,), generator=generator)]
    # One unusable and one usable image per group, `[N, 2]`.
    members = torch.stack(
        [
            torch.multinomial(allowed[groups].float(), 1, generator=generator)[:, 0]
            for allowed in (~pool.usable, good)
        ],
        1,
    )
    comparisons = [
        _adversarial_pair(
            int(pool.task[group]),
            pool.prompts[group],
            (pool.scores[group, bad] - pool.scores[group, usable]).float(),
            margins,
        )
        for group, (bad, usable) in zip(groups.tolist(), members.tolist(), strict=True)
    ]
    images = pool.images[groups[:, None], members].float() / 255
    return comparisons, images, pool.masks[groups].float()


def deformed_adversarial_pairs(
    index: int, num: int, margins: Sequence[float], generator: torch.Generator
) -> tuple[list[Comparison], Tensor, Tensor]:
    """Draw at most `num` pairs of deformed and true images; returns as `pool_adversarial_pairs`."""
    scenes = fresh_scenes(index, _DEFORMED_PER_PAIR * num)
    deformed = sample_deformations(scenes, 1, generator).images  # [3 N, 3, 64, 64]
    bad, truth = judge(deformed, scenes), judge(scenes.target, scenes)
    rows = (~bad.usable & truth.usable).nonzero()[:num, 0]
    gaps = bad.table - truth.table
    comparisons = [
        _adversarial_pair(int(scenes.task[row]), scenes.prompts[row], gaps[row], margins)
        for row in rows.tolist()
    ]
    return comparisons, torch.stack([deformed[rows], scenes.target[rows]], 1), scenes.mask[rows]


def _adversarial_pair(task: int, prompt: str, gaps: Tensor, margins: Sequence[float]) -> Comparison:
    comparison = as_comparison(task, prompt, gaps.tolist(), margins, better=1)
    assert comparison is not None, "every dimension has a winner"
    return comparison


def slot_of(step: int, config: CompareConfig) -> tuple[int, int]:
    """Return which slot of adversarial pairs a step visits, and the step that filled it.

    A slot is visited every `adversarial_every` steps and filled anew after `adversarial_visits`
    visits, each slot at another time, so that the slots hold old and new pairs at any time.

    Source: H. Zheng et al., "Efficient adversarial training with transferable adversarial
    examples" (2020): what an attack found is where the next one starts.
    """
    every, visits = config.adversarial_every, config.adversarial_visits
    slot, visit = step % every, step // every
    age = (visit + slot * visits // every) % visits
    return slot, max(visit - age, 0) * every + slot


def attack_unusable(
    judge: QwenJudge,
    comparisons: Sequence[Comparison],
    images: Tensor,
    masks: Tensor,
    config: CompareConfig,
    start: Tensor,
) -> Tensor:
    """Attack the first of two images so that the judge prefers it; returns `[N, 2, 3, 64, 64]`.

    Args:
        judge: The judge.
        comparisons: What they are compared on.
        images: float32 `[N, 2, 3, 64, 64]` in 0..1.
        masks: float32 `[N, 64, 64]`, 1 = may be changed.
        config: Steps, stride and size.
        start: Where the ascent starts: the first of them, changed; `[N, 3, 64, 64]`.
    """
    # The usable images stay as they are: encode them once.
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        good = judge.encode_images(list(images[:, 1]))

    def log_yes(bad_images: Tensor) -> Tensor:
        """Sum log P("Yes", the first is better) over all pairs and dimensions."""
        with torch.autocast("cpu", torch.bfloat16):
            bad = judge.encode_images(list(bad_images))
            questions = [
                PairQuestion(first, second, query)
                for first, second, comparison in zip(bad, good, comparisons, strict=True)
                for query, _ in comparison.queries()
            ]
            return judge.answer(questions)[:, 0].sum()

    ascent = Ascent(config.adversarial_steps, config.attack_size, config.adversarial_step_size)
    attacked = attack(log_yes, images[:, 0], masks[:, None], ascent, start)
    return torch.stack([attacked, images[:, 1]], 1)
