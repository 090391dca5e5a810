"""Who can label: a judge, and metrics that need no judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.task import Dimension, Task
from ...reward.judge import Judge
from ...reward.judging import VIEWS, rank_candidates
from ...reward.metrics import quoted, seam_step, text_correct
from ...reward.preference import CandidateGroup, PreferenceSet
from ...reward.query import queries_for
from ...reward.score import METHODS, RankingConfig
from ..judge.pairs import view_of
from .conditions import image_size, read_image
from .label import LABELLERS, CandidateScores, LabelConfig, Labeller

SEAM_SCALE = 0.1
"""Step across the mask's border at which the seam score has fallen to 1/e."""
_METRICS = {Dimension.CONSISTENCY: "seam_step", Dimension.TEXT_ALIGNMENT: "text_correct"}


def make_labeller(config: LabelConfig, judge: Judge | None) -> Labeller:
    """Return the labeller that a config asks for; ValueError if it needs a judge."""
    if config.labeller == LABELLERS[1]:
        return MetricLabeller()
    if judge is None:
        raise ValueError("labeller is judge, but no judge is connected; connect one")
    return JudgeLabeller(judge, config.view)


@dataclass(frozen=True, slots=True)
class JudgeLabeller:
    """Lets a judge compare every two candidates; the score is the mean P(better than the others).

    A judge learns nothing new from its own labels; they serve to distil a larger judge, and as a
    start for people to correct.

    Example: ``label(data, JudgeLabeller(judge), 0.2, host)``.
    """

    judge: Judge
    view: str = VIEWS[0]

    @property
    def identity(self) -> str:
        """The judge's own, and the view."""
        return f"{self.judge.identity}|{self.view}"

    def judged_by(self, dimension: Dimension) -> str:
        """Return the judge's name."""
        del dimension
        return f"judge:{self.judge.label}"

    def check(self, groups: Sequence[CandidateGroup], data: PreferenceSet) -> None:
        """Refuse a judge without Yes and No (JudgeError)."""
        del groups, data
        self.judge.check()

    def candidate_scores(
        self, group: CandidateGroup, data: PreferenceSet, host: Host
    ) -> CandidateScores:
        """Compare every two candidates; every image is encoded once."""
        queries = queries_for(group.task, group.prompt)
        every_pair = RankingConfig(method=METHODS[1])
        view = view_of(data, group, self.view)
        images = candidate_images(group, data)  # [N, H, W, 3]
        ranking = rank_candidates(self.judge, images, queries, host, view, every_pair)
        wins: dict[tuple[Dimension, int, int], float] = {}
        chances: dict[Dimension, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for match in ranking.comparisons:
            a, b = match.first, match.second
            for dimension, p in match.judgement.probabilities.items():
                wins[dimension, a, b], wins[dimension, b, a] = p, 1 - p
                chances[dimension][a].append(p)
                chances[dimension][b].append(1 - p)
        scores: dict[Dimension, list[float]] = {}
        for dimension, by_candidate in chances.items():
            lists = [by_candidate[index] for index in range(len(images))]
            scores[dimension] = [sum(values) / len(values) for values in lists]
        return CandidateScores(scores=scores, wins=wins)


@dataclass(frozen=True, slots=True)
class MetricLabeller:
    """Measures seams and legible words; a dimension without a metric is not labelled.

    Example: ``label(data, MetricLabeller(), 0.2, host)``.
    """

    @property
    def identity(self) -> str:
        """The metrics and their scale."""
        return f"metrics|seam_step {SEAM_SCALE}|text_correct"

    def judged_by(self, dimension: Dimension) -> str:
        """Return the metric's name."""
        return f"metric:{_METRICS.get(dimension, 'none')}"

    def check(self, groups: Sequence[CandidateGroup], data: PreferenceSet) -> None:
        """Refuse what cannot be measured.

        Raises:
            ValueError: A group has no mask, one of another size, or words to be read that are not
                in double quotes.
            ImportError: Words are to be read without a reader.
        """
        for group in groups:
            name = f"condition {group.condition}"
            if not group.mask_file_name:
                raise ValueError(f"{name} has no mask, which metrics need")
            mask = image_size(data.image(group.mask_file_name))
            size = image_size(data.image(group.file_names[0]))
            if mask != size:
                raise ValueError(
                    f"{name} has a mask of {mask[0]}x{mask[1]} pixels for candidates of "
                    f"{size[0]}x{size[1]} pixels; remove it from {data.folder}"
                )
            if group.task is Task.TEXT and not quoted(group.prompt):
                raise ValueError(
                    f"{name} says {group.prompt!r}, but metrics read the words in double quotes, "
                    'as in a sign that says "OPEN"; label it with a judge'
                )
        if any(group.task is Task.TEXT for group in groups):
            text_correct(torch.zeros(1, 16, 16, 3), "x")

    def candidate_scores(
        self, group: CandidateGroup, data: PreferenceSet, host: Host
    ) -> CandidateScores:
        """Measure every candidate."""
        host.check_cancelled()
        images = candidate_images(group, data)
        scores: dict[Dimension, list[float]] = {}
        if group.task is not Task.REMOVE:
            mask = read_image(data.image(group.mask_file_name), "L").expand(len(images), -1, -1)
            steps = seam_step(images, mask).clamp(min=0)
            scores[Dimension.CONSISTENCY] = torch.exp(-steps / SEAM_SCALE).tolist()
        if group.task is Task.TEXT:
            scores[Dimension.TEXT_ALIGNMENT] = text_correct(images, quoted(group.prompt))
        return CandidateScores(scores=scores)


def candidate_images(group: CandidateGroup, data: PreferenceSet) -> Tensor:
    """Read all candidates, ``[N, H, W, 3]``."""
    images = [read_image(data.image(name)) for name in group.file_names]
    if len({tuple(image.shape) for image in images}) > 1:
        raise ValueError(f"the candidates of condition {group.condition} differ in size")
    return torch.stack(images)
