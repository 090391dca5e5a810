"""Save the comparisons of a ranking as preference data."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from ...fill.io.folder_lock import folder_lock
from ...fill.task import Dimension, Task
from ...reward.preference import CandidateGroup, Preference, PreferenceSet
from ...reward.score import Ranking
from .conditions import save_image

PICKED = "picked-"
"""Begins the names of conditions of groups that Pick Best has ranked."""
_TIE = 1e-6
"""Nearer to one half than this is rounding: images that are the same."""


def save_ranking(
    data: PreferenceSet,
    group: CandidateGroup,
    candidates: Tensor,
    ranking: Ranking,
    judged_by: str,
) -> int:
    """Write the candidates ``[N, H, W, 3]``, 0..1, and a pair per comparison and dimension.

    Candidates that are there already are not written again, nor is a comparison of two of them by
    the same judge; one by another judge is. A comparison without a winner makes no pair.

    Returns:
        The number of new pairs.
    """
    with folder_lock(data.folder):
        is_new = group.file_names not in {stored.file_names for stored in data.groups()}
        if is_new:
            for name, image in zip(group.file_names, candidates, strict=True):
                save_image(data.folder / name, image)
        comparisons = {pair.comparison for pair in data.pairs()}
        pairs = [p for p in _pairs(group, ranking, judged_by) if p.comparison not in comparisons]
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
    originals: tuple[Tensor | None, Tensor | None],
) -> CandidateGroup:
    """Make the candidates' group, and write source and mask, where there are any.

    The condition is named by a digest of the source, so that everything made from one image stays
    in one split; without a source, by one of the candidates.

    Args:
        data: The data set.
        task: The edit they were made by.
        prompt: What they should show.
        candidates: ``[N, H, W, 3]``, 0..1.
        originals: Source ``[1 or N, H, W, 3]`` and mask ``[1 or N, H, W]``; the first is taken.

    Raises:
        ValueError: Source or mask is not as large as the candidates.
    """
    # Source [H, W, 3] and mask [H, W], as large as the candidates.
    size = tuple(candidates.shape[1:3])
    images: dict[str, Tensor] = {}
    for label, num_dims, tensor in zip(("source", "mask"), (3, 2), originals, strict=True):
        if tensor is None:
            continue
        images[label] = tensor[0] if tensor.ndim > num_dims else tensor
        height, width = images[label].shape[:2]
        if (height, width) != size:
            raise ValueError(
                f"the {label} is {width}x{height} pixels but the candidates are "
                f"{size[1]}x{size[0]} pixels; connect the {label} that they were made from"
            )
    # Names are digests, so that the same images get the same names.
    made_by = _digest(candidates, f"{task.value}|{prompt}")
    source = images.get("source")
    condition = PICKED + (made_by if source is None else _digest(source))
    subfolder = f"images/{condition}/{made_by}"
    for label, image in images.items():
        save_image(data.folder / subfolder / f"{label}.png", image)
    names = {label: f"{subfolder}/{label}.png" for label in images}
    return CandidateGroup(
        file_names=tuple(f"{subfolder}/{i}.png" for i in range(len(candidates))),
        task=task,
        condition=condition,
        source_file_name=names.get("source", ""),
        mask_file_name=names.get("mask", ""),
        prompt=prompt,
        made_by=made_by,
    )


def is_picked(group: CandidateGroup) -> bool:
    """Whether a group was saved by Pick Best, so that its pairs need no labels."""
    return group.condition.startswith(PICKED)


def make_pair(
    group: CandidateGroup, dimension: Dimension, ends: tuple[int, int], judged_by: str
) -> Preference:
    """Return the pair of two candidates, the index of the better one first."""
    best, worst = ends
    settings = {}
    if group.settings:
        settings = {"winner": group.settings[best], "loser": group.settings[worst]}
    return Preference(
        winner_file_name=group.file_names[best],
        loser_file_name=group.file_names[worst],
        task=group.task,
        dimension=dimension,
        condition=group.condition,
        source_file_name=group.source_file_name,
        mask_file_name=group.mask_file_name,
        prompt=group.prompt,
        judged_by=judged_by,
        settings=settings,
    )


def _digest(images: Tensor, text: str = "") -> str:
    digest = hashlib.blake2b(f"{text}|".encode(), digest_size=8)
    digest.update((images * 255).round().to(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def _pairs(group: CandidateGroup, ranking: Ranking, judged_by: str) -> list[Preference]:
    pairs = []
    for match in ranking.comparisons:
        for dimension, p in match.judgement.probabilities.items():
            if abs(p - 0.5) < _TIE:
                continue
            ends = (match.first, match.second) if p > 0.5 else (match.second, match.first)
            pair = make_pair(group, dimension, ends, judged_by)
            pairs.append(replace(pair, confidence=max(p, 1 - p)))
    return pairs
