"""A judge's answers to comparisons: eq. 3 on them, attacks on it, and how often they are right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...reward.qwen_vl import EncodedImage, PairQuestion, QwenJudge
from ...reward.report import Answer, JudgeReport, make_report
from ...training.objectives import preference_loss
from .config import CompareConfig
from .pairs.attacks import Ascent, attack
from .pairs.candidates import Candidates
from .pairs.comparisons import Comparison

TOGETHER = 64
"""Comparisons that are asked at once where nothing is learned."""


def images_of(pool: Candidates, drawn: Sequence[Comparison]) -> Tensor:
    """Return both images of each comparison, float32 `[N, 2, 3, 64, 64]` in 0..1."""
    return torch.stack([pool.images[one.group, list(one.images)] for one in drawn]).float() / 255


def encode_pairs(judge: QwenJudge, images: Tensor) -> list[EncodedImage]:
    """Encode `[N, 2, 3, H, W]`; returns both images of each pair in turn, `2 N`."""
    with torch.autocast("cpu", torch.bfloat16):
        return judge.encode_images(list(images.flatten(0, 1)))


def _asked(encoded: Sequence[EncodedImage], drawn: Sequence[Comparison]) -> list[PairQuestion]:
    """Return every question twice: with the better image first, and with it second."""
    asked: list[PairQuestion] = []
    for number, one in enumerate(drawn):
        pair = encoded[2 * number : 2 * number + 2]
        for query, place in one.queries():
            winner, loser = pair[place], pair[1 - place]
            asked += [(winner, loser, query), (loser, winner, query)]
    return asked


def comparison_loss(
    judge: QwenJudge, encoded: Sequence[EncodedImage], drawn: Sequence[Comparison]
) -> Tensor:
    """Return eq. 3 over all questions of the comparisons; `encoded` as by `encode_pairs`."""
    with torch.autocast("cpu", torch.bfloat16):
        answers = judge.answer(_asked(encoded, drawn))
    return preference_loss(answers[0::2, 0], answers[1::2, 1])


def attack_pairs(
    judge: QwenJudge,
    images: Tensor,
    drawn: Sequence[Comparison],
    masks: Tensor,
    config: CompareConfig,
) -> Tensor:
    """Change images under their masks so that the judge errs most.

    In every second pair of either kind of change both images are changed, in the others the loser
    alone, as by a policy that is judged against a reference. Who wins stays as it was.

    Args:
        judge: The judge.
        images: float32 `[N, 2, 3, H, W]` in 0..1.
        drawn: What they are compared on.
        masks: float32 `[N, H, W]`, 1 = repainted.
        config: Steps and size.
    """
    where = masks[:, None, None].repeat(1, 2, 1, 1, 1)
    for number, one in enumerate(drawn):
        places = {place for _, place in one.winners}
        if number % 4 < 2 and len(places) == 1:
            where[number, places.pop()] = 0
    return attack(
        lambda moved: comparison_loss(judge, encode_pairs(judge, moved), drawn),
        images,
        where,
        Ascent(config.attack_steps, config.attack_size),
    )


@torch.no_grad()
def report_on(judge: QwenJudge, pool: Candidates, drawn: Sequence[Comparison]) -> JudgeReport:
    """Return the judge's accuracy on comparisons, not augmented."""
    answers: list[Answer] = []
    for start in range(0, len(drawn), TOGETHER):
        part = drawn[start : start + TOGETHER]
        encoded = judge.encode_images(list(images_of(pool, part).flatten(0, 1)))
        yes = judge.answer(_asked(encoded, part))[:, 0].exp().tolist()
        queries = [query for one in part for query, _ in one.queries()]
        answers += [
            Answer(criterion=query.criterion, winner_first=a, loser_first=b)
            for query, a, b in zip(queries, yes[0::2], yes[1::2], strict=True)
        ]
    return make_report(answers)
