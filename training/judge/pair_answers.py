"""Ask a judge about preference pairs whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ...reward.judge import Judge, PairQuestion
from ...reward.judging import VIEWS
from ...reward.preference import Preference, PreferenceSet
from ...reward.report import Answer
from ...reward.vlm.qwen_vl import QwenJudge
from .pairs import ViewPair, images_of, query_of, source_of

BATCH = 4
"""Pairs computed at once."""


def ask_both_ways(
    judge: QwenJudge, views: Sequence[ViewPair], pairs: Sequence[Preference]
) -> Tensor:
    """Return log P("Yes") and log P("No"), ``[B, 2, 2]``: winner first, then loser first.

    Every image is encoded once; differentiable.

    Args:
        judge: The judge.
        views: Winner and loser of each pair as they are shown, on the judge's device.
        pairs: What to ask about.
    """
    encoded = judge.encode_images(list(chain(*views)))
    questions = []
    for index, pair in enumerate(pairs):
        winner, loser, query = encoded[2 * index], encoded[2 * index + 1], query_of(pair)
        questions += [PairQuestion(winner, loser, query), PairQuestion(loser, winner, query)]
    return judge.answer(questions).reshape(len(pairs), 2, 2)


@torch.no_grad()
def answer_pairs(
    judge: Judge,
    data: PreferenceSet,
    pairs: Sequence[Preference],
    tick: Callable[[int, int], None],
    device: torch.device,
    view: str = VIEWS[0],
) -> list[Answer]:
    """Return the judge's answers, for a report; the judge is on its device already.

    Args:
        judge: The judge.
        data: Where the images are.
        pairs: What to ask about.
        tick: Called with the number of pairs done and of all (progress and cancel).
        device: Where the judge works.
        view: How the images are shown.
    """
    answers: list[Answer] = []
    for start in range(0, len(pairs), BATCH):
        tick(start, len(pairs))
        batch = pairs[start : start + BATCH]
        views = [on_device(images_of(data, pair, view), device) for pair in batch]
        encoded = judge.encode_images(list(chain(*views)))
        sources: list[Any] = [None] * len(batch)
        if judge.needs_source:
            sources = judge.encode_images([source_of(data, p, view).to(device) for p in batch])
        questions: list[PairQuestion] = []
        for i, pair in enumerate(batch):
            winner, loser = encoded[2 * i : 2 * i + 2]
            question = PairQuestion(winner, loser, query_of(pair), sources[i])
            questions += [question, question._replace(first=loser, second=winner)]
        yes = judge.probabilities(questions).reshape(-1, 2).tolist()  # [B, 2]
        answers += [
            Answer(
                criterion=(pair.task, pair.dimension),
                winner_first=a,
                loser_first=b,
                condition=pair.condition,
            )
            for pair, (a, b) in zip(batch, yes, strict=True)
        ]
    return answers


def on_device(views: ViewPair, device: torch.device) -> ViewPair:
    """Move both images."""
    winner, loser = views
    return winner.to(device), loser.to(device)
