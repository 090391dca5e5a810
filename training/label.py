"""Label candidates: for each dimension the best and the worst, unless they hardly differ.

Source: OneReward, sec. 4.2; one candidate may win in one dimension and lose in another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ..fill.host import Host
from ..fill.task import Dimension
from ..reward.judging import View, rank_candidates
from ..reward.preference import CandidateGroup, Preference, PreferenceSet
from ..reward.query import queries_for
from ..reward.qwen_vl import QwenJudge
from ..reward.score import Contest
from .data import read_picture


def label_group(
    group: CandidateGroup,
    scores: Mapping[Dimension, Sequence[float]],
    margin: float,
    judged_by: str,
) -> list[Preference]:
    """Return a pair (best, worst) per dimension in which they differ by at least the margin.

    Args:
        group: The candidates.
        scores: Per dimension one number per candidate, higher is better; a dimension with a
            number that is not finite is left out.
        margin: Least difference between best and worst, in units of the scores.
        judged_by: Who gave the scores, for the record.

    Raises:
        ValueError: A dimension has not one score per candidate, or the margin is negative.
    """
    if margin < 0:
        raise ValueError(f"margin is {margin}, but 0 or more is expected")
    pairs = []
    for dimension, values in scores.items():
        if len(values) != len(group.file_names):
            raise ValueError(
                f"{dimension.value} has {len(values)} scores for {len(group.file_names)} candidates"
            )
        best = max(range(len(values)), key=lambda i: values[i])
        worst = min(range(len(values)), key=lambda i: values[i])
        difference = values[best] - values[worst]
        if best == worst or not math.isfinite(sum(values)) or difference < margin:
            continue
        pairs.append(_pair(group, dimension, (best, worst), judged_by))
    return pairs


def label_by_judge(
    group: CandidateGroup, data: PreferenceSet, judge: QwenJudge, margin: float, host: Host
) -> list[Preference]:
    """Let a judge compare every two candidates; the score is the mean P(better than the others).

    Args:
        group: The candidates, their pictures in ``data``.
        data: The folder.
        judge: The judge.
        margin: Least difference of best and worst, 0..1; 0.2 asks for a clear preference.
        host: Memory, progress, cancel.
    """
    pictures = torch.stack([read_picture(data.picture(name)) for name in group.file_names])
    scores = {}
    for query in queries_for(group.task, group.prompt):
        contest = Contest(method="round robin")
        ranking = rank_candidates(judge, pictures, [query], host, View(), contest)
        scores[query.dimension] = ranking.scores
    return label_group(group, scores, margin, "judge")


def _pair(
    group: CandidateGroup, dimension: Dimension, places: tuple[int, int], judged_by: str
) -> Preference:
    best, worst = places
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
