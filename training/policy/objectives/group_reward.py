"""How candidates of one edit fare among their siblings, by the judges; no gradient is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....fill.host import Host
from ....reward.judge import Judge, PairQuestion
from ....reward.judging import VIEWS, View
from ....reward.query import Query
from ...edited_image import EditedImage


def win_rates(
    judge: Judge,
    edits: Sequence[EditedImage],
    queries: Sequence[Query],
    num_rivals: int,
    rows: int,
    host: Host,
) -> Tensor:
    """Return the mean P(better than a sibling) of every candidate, ``[N, E]``, in both orders.

    Every candidate meets the next ``num_rivals`` in a ring, and so twice as many in all.

    Args:
        judge: The judge, resident on the host's device.
        edits: N candidates of one edit.
        queries: What is asked, E dimensions.
        num_rivals: 1 to N - 1; N - 1 meets every other twice.
        rows: Pairs that are judged at once.
        host: Device, cancel.
    """
    encoded, source = _encode(judge, edits, host)
    count = len(edits)
    steps = range(1, min(num_rivals, count - 1) + 1)
    pairs = [(i, (i + step) % count) for step in steps for i in range(count)]
    wins, games = torch.zeros(count, len(queries)), torch.zeros(count, 1)
    for start in range(0, len(pairs), rows):
        host.check_cancelled()
        share = pairs[start : start + rows]
        questions = [
            PairQuestion(encoded[first], encoded[second], query, source)
            for a, b in share
            for first, second in ((a, b), (b, a))
            for query in queries
        ]
        with torch.no_grad():
            yes = judge.probabilities(questions).reshape(len(share), 2, len(queries)).cpu()
        for (a, b), (forth, back) in zip(share, yes, strict=True):
            chance = (forth + 1 - back) / 2  # [E]
            wins[a] += chance
            wins[b] += 1 - chance
            games[[a, b]] += 1
    return wins / games


def _encode(judge: Judge, edits: Sequence[EditedImage], host: Host) -> tuple[list[Any], Any | None]:
    """Return the candidates as the judge was trained to see them, and the source if it asks."""
    kind = judge.notes.get("view", VIEWS[0])
    edit = edits[0]
    source = edit.source.permute(1, 2, 0)[None]  # [1, H, W, 3]
    view = View(kind=kind, mask=edit.mask[None], source=source)
    encoded: list[Any] = []
    with torch.no_grad():
        for image in edits:
            host.check_cancelled()
            crop = view.show(image.image.permute(1, 2, 0))
            encoded += judge.encode_images([crop.to(host.device, torch.float32)])
        if not judge.needs_source:
            return encoded, None
        size = (edit.source.shape[1], edit.source.shape[2])
        (shown_source,) = judge.encode_images([view.show_source(0, size).to(host.device)])
    return encoded, shown_source
