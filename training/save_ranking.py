"""Keep what a judge has compared anyway, as preference data."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..fill.task import Dimension, Task
from ..reward.preference import CandidateGroup, Preference, PreferenceSet
from ..reward.score import Ranking
from .data import save_picture


def save_ranking(
    data: PreferenceSet,
    group: CandidateGroup,
    candidates: Tensor,
    ranking: Ranking,
    judged_by: str,
) -> int:
    """Write the candidates ``[N, H, W, 3]``, 0..1, and a pair per comparison and dimension.

    Neither candidates that are there already nor what the same judge has said of two of them are
    written again; what another judge says is. A comparison without a winner makes no pair.

    Returns:
        The number of new pairs.
    """
    is_new = group.condition not in {known.condition for known in data.groups()}
    if is_new:
        for name, picture in zip(group.file_names, candidates, strict=True):
            path = data.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save_picture(path, picture)
    known = set(map(_compared, data.pairs()))
    pairs = [p for p in _pairs(group, ranking, judged_by) if _compared(p) not in known]
    for pair in pairs:
        data.add(pair)
    if is_new:
        data.add_group(group)
    return len(pairs)


def picked_group(
    data: PreferenceSet,
    task: Task,
    prompt: str,
    candidates: Tensor,
    surroundings: tuple[Tensor | None, Tensor | None],
) -> CandidateGroup:
    """Name the candidates' group by what they are, and write source and mask, where known.

    Args:
        data: The data set.
        task: The edit they were made by.
        prompt: What they should show.
        candidates: ``[N, H, W, 3]``, 0..1.
        surroundings: Source ``[1 or N, H, W, 3]`` and mask ``[1 or N, H, W]``; the first is taken.
    """
    made = hashlib.blake2b(f"{task.value}|{prompt}|".encode(), digest_size=8)
    made.update((candidates * 255).round().to(torch.uint8).cpu().numpy().tobytes())
    condition = f"picked-{made.hexdigest()}"
    names = []
    for label, picture in zip(("source", "mask"), surroundings, strict=True):
        names.append(f"images/{condition}/{label}.png" if picture is not None else "")
        if picture is not None:
            first = picture[0] if picture.ndim > (3 if label == "source" else 2) else picture
            path = data.folder / names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_picture(path, first)
    return CandidateGroup(
        file_names=tuple(f"images/{condition}/{i}.png" for i in range(len(candidates))),
        task=task,
        condition=condition,
        source_file_name=names[0],
        mask_file_name=names[1],
        prompt=prompt,
    )


def _compared(pair: Preference) -> tuple[frozenset[str], Dimension, str]:
    """Return what was compared in what, and who did."""
    names = frozenset((pair.winner_file_name, pair.loser_file_name))
    return names, pair.dimension, pair.judged_by


def _pairs(group: CandidateGroup, ranking: Ranking, judged_by: str) -> list[Preference]:
    pairs = []
    for done in ranking.comparisons:
        for dimension, p in done.judgement.probabilities.items():
            if p == 0.5:
                continue
            best, worst = (done.first, done.second) if p > 0.5 else (done.second, done.first)
            pairs.append(
                Preference(
                    winner_file_name=group.file_names[best],
                    loser_file_name=group.file_names[worst],
                    task=group.task,
                    dimension=dimension,
                    condition=group.condition,
                    source_file_name=group.source_file_name,
                    mask_file_name=group.mask_file_name,
                    prompt=group.prompt,
                    judged_by=judged_by,
                    confidence=max(p, 1 - p),
                )
            )
    return pairs
