"""Ask a judge about preference pairs whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...reward.judging import VIEWS
from ...reward.preference import Preference, PreferenceSet
from ...reward.qwen_vl import QwenJudge
from ...reward.report import Answer
from .pairs import images_of, query_of

BATCH = 4
"""Pairs computed at once."""
Both = tuple[Tensor, Tensor]
"""What the judge sees of winner and loser, each ``[3, H, W]``, 0..1, on its device."""


def ask_both_ways(judge: QwenJudge, images: Sequence[Both], pairs: Sequence[Preference]) -> Tensor:
    """Return log P("Yes") and log P("No"), ``[B, 2, 2]``: winner first, then loser first.

    Every image is encoded once; differentiable.
    """
    encoded = judge.encode_images([image for both in images for image in both])
    questions = []
    for number, pair in enumerate(pairs):
        winner, loser, query = encoded[2 * number], encoded[2 * number + 1], query_of(pair)
        questions += [(winner, loser, query), (loser, winner, query)]
    return judge.answer(questions).reshape(len(pairs), 2, 2)


@torch.no_grad()
def answer_pairs(
    judge: QwenJudge,
    data: PreferenceSet,
    pairs: Sequence[Preference],
    tick: Callable[[int, int], None],
    view: str = VIEWS[0],
) -> list[Answer]:
    """Return the judge's answers, for a report; the judge is on its device already.

    Args:
        judge: The judge.
        data: Where the images are.
        pairs: What to ask about.
        tick: Called with the number of pairs done and of all (progress and cancel).
        view: What the judge sees of the images.
    """
    device = next(judge.component.module.parameters()).device
    answers: list[Answer] = []
    for start in range(0, len(pairs), BATCH):
        tick(start, len(pairs))
        part = pairs[start : start + BATCH]
        images = [on_device(images_of(data, pair, view), device) for pair in part]
        yes = ask_both_ways(judge, images, part)[:, :, 0].exp().tolist()
        answers += [
            Answer(
                criterion=(pair.task, pair.dimension),
                winner_first=a,
                loser_first=b,
                condition=pair.condition,
            )
            for pair, (a, b) in zip(part, yes, strict=True)
        ]
    return answers


def on_device(both: Both, device: torch.device) -> Both:
    """Move both images."""
    winner, loser = both
    return winner.to(device), loser.to(device)
