"""A judge's answers to comparisons: the loss (eq. 3), attacks on it, and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...reward.judge import PairQuestion
from ...reward.report import Answer, JudgeReport, make_report
from ...reward.vlm.qwen_vl import EncodedImage, QwenJudge
from ...training.objectives import preference_loss
from .config import CompareConfig
from .pairs.attacks import Ascent, attack
from .pairs.candidates import Candidates
from .pairs.comparisons import Comparison

EVAL_BATCH = 64
"""Comparisons per batch of an evaluation."""


def images_of(pool: Candidates, comparisons: Sequence[Comparison]) -> Tensor:
    """Return both images of each comparison, float32 `[N, 2, 3, 64, 64]` in 0..1."""
    return torch.stack([pool.images[c.group, list(c.images)] for c in comparisons]).float() / 255


def encode_pairs(judge: QwenJudge, images: Tensor) -> list[EncodedImage]:
    """Encode `[N, 2, 3, H, W]`; returns both images of each pair in turn, `2 N`."""
    with torch.autocast("cpu", torch.bfloat16):
        return judge.encode_images(list(images.flatten(0, 1)))


def _pair_questions(
    encoded: Sequence[EncodedImage], comparisons: Sequence[Comparison]
) -> list[PairQuestion]:
    """Return every question twice: with the better image first, and with it second."""
    questions: list[PairQuestion] = []
    for index, comparison in enumerate(comparisons):
        pair = encoded[2 * index : 2 * index + 2]
        for query, better in comparison.queries():
            winner, loser = pair[better], pair[1 - better]
            questions += [PairQuestion(winner, loser, query), PairQuestion(loser, winner, query)]
    return questions


def comparison_loss(
    judge: QwenJudge, encoded: Sequence[EncodedImage], comparisons: Sequence[Comparison]
) -> Tensor:
    """Return eq. 3 over all questions of the comparisons; `encoded` as by `encode_pairs`."""
    with torch.autocast("cpu", torch.bfloat16):
        answers = judge.answer(_pair_questions(encoded, comparisons))  # [2 Q, 2] log P
    return preference_loss(answers[0::2, 0], answers[1::2, 1])


def attack_pairs(
    judge: QwenJudge,
    images: Tensor,
    comparisons: Sequence[Comparison],
    masks: Tensor,
    config: CompareConfig,
) -> Tensor:
    """Attack images under their masks so that the judge's loss rises most.

    Of either kind of attack every second pair has both images changed, the others the loser alone,
    as by a policy that is judged against a reference. The winners stay the same.

    Args:
        judge: The judge.
        images: float32 `[N, 2, 3, H, W]` in 0..1.
        comparisons: What they are compared on.
        masks: float32 `[N, H, W]`, 1 = repainted.
        config: Steps and size.
    """
    # Where each image may be changed; in some pairs the winner may not.
    allowed = masks[:, None, None].repeat(1, 2, 1, 1, 1)  # [N, 2, 1, H, W]
    for index, comparison in enumerate(comparisons):
        winners = {better for _, better in comparison.winners}
        if index % 4 < 2 and len(winners) == 1:
            allowed[index, winners.pop()] = 0
    return attack(
        lambda changed_pairs: comparison_loss(
            judge, encode_pairs(judge, changed_pairs), comparisons
        ),
        images,
        allowed,
        Ascent(config.attack_steps, config.attack_size),
    )


@torch.no_grad()
def report_on(judge: QwenJudge, pool: Candidates, comparisons: Sequence[Comparison]) -> JudgeReport:
    """Return the judge's accuracy on comparisons, without augmentation."""
    answers: list[Answer] = []
    for start in range(0, len(comparisons), EVAL_BATCH):
        batch = comparisons[start : start + EVAL_BATCH]
        encoded = judge.encode_images(list(images_of(pool, batch).flatten(0, 1)))
        yes = judge.answer(_pair_questions(encoded, batch))[:, 0].exp().tolist()
        queries = [query for comparison in batch for query, _ in comparison.queries()]
        answers += [
            Answer(criterion=query.criterion, winner_first=a, loser_first=b)
            for query, a, b in zip(queries, yes[0::2], yes[1::2], strict=True)
        ]
    return make_report(answers)
