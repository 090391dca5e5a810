"""Keep what a judge has compared anyway, as preference data."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ...fill.task import Task
from ...reward.preference import CandidateGroup, Preference, PreferenceSet
from ...reward.score import Ranking
from .conditions import save_image

PICKED = "picked-"
"""Begins the names of conditions of groups that a ranking_config has ranked."""
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

    Neither candidates that are there already nor what the same judge has said of two of them are
    written again; what another judge says is. A comparison without a winner makes no pair.

    Returns:
        The number of new pairs.
    """
    is_new = group.file_names not in {known.file_names for known in data.groups()}
    if is_new:
        for name, image in zip(group.file_names, candidates, strict=True):
            path = data.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(path, image)
    known = {pair.comparison for pair in data.pairs()}
    pairs = [p for p in _pairs(group, ranking, judged_by) if p.comparison not in known]
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

    The condition is named by the source, so that everything that was ever made from one image
    stays in one split; by the candidates where the source is not known.

    Args:
        data: The data set.
        task: The edit they were made by.
        prompt: What they should show.
        candidates: ``[N, H, W, 3]``, 0..1.
        surroundings: Source ``[1 or N, H, W, 3]`` and mask ``[1 or N, H, W]``; the first is taken.

    Raises:
        ValueError: Source or mask is not as large as the candidates.
    """
    size = tuple(candidates.shape[1:3])
    shown: dict[str, Tensor] = {}
    for label, image in zip(("source", "mask"), surroundings, strict=True):
        if image is None:
            continue
        shown[label] = image[0] if image.ndim > (3 if label == "source" else 2) else image
        if shown[label].shape[:2] != size:
            height, width = shown[label].shape[:2]
            raise ValueError(
                f"the {label} is {width}x{height} pixels but the candidates are {size[1]}x{size[0]} "
                f"pixels; connect the {label} that they were made from"
            )
    made_by = _digest(candidates, f"{task.value}|{prompt}")
    source = shown.get("source")
    condition = PICKED + (made_by if source is None else _digest(source))
    place = f"images/{condition}/{made_by}"
    for label, image in shown.items():
        path = data.folder / place / f"{label}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, image)
    names = {label: f"{place}/{label}.png" for label in shown}
    return CandidateGroup(
        file_names=tuple(f"{place}/{i}.png" for i in range(len(candidates))),
        task=task,
        condition=condition,
        source_file_name=names.get("source", ""),
        mask_file_name=names.get("mask", ""),
        prompt=prompt,
        made_by=made_by,
    )


def is_picked(group: CandidateGroup) -> bool:
    """Whether a group comes from a ranking_config, and so do pairs of it that no label explains."""
    return group.condition.startswith(PICKED)


def _digest(images: Tensor, text: str = "") -> str:
    made = hashlib.blake2b(f"{text}|".encode(), digest_size=8)
    made.update((images * 255).round().to(torch.uint8).cpu().numpy().tobytes())
    return made.hexdigest()


def _pairs(group: CandidateGroup, ranking: Ranking, judged_by: str) -> list[Preference]:
    pairs = []
    for done in ranking.comparisons:
        for dimension, p in done.judgement.probabilities.items():
            if abs(p - 0.5) < _TIE:
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
