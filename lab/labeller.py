"""Who labels in the laboratory: the ground truth of its own images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..fill.host import Host
from ..fill.task import Dimension
from ..reward.preference import CandidateGroup, PreferenceSet
from ..training.data.label import CandidateScores
from ..training.data.labellers import candidate_images
from ..training.ground_truth import GroundTruth


@dataclass(frozen=True, slots=True)
class GroundTruthLabeller:
    """Labels by a ground truth, which only a laboratory has.

    Example: ``label(data, GroundTruthLabeller(truth), 0.2, host)``.
    """

    truth: GroundTruth

    @property
    def identity(self) -> str:
        """There is one truth of a name."""
        return f"ground truth|{self.truth.name}"

    def judged_by(self, dimension: Dimension) -> str:
        """Return the truth's name."""
        del dimension
        return self.truth.name

    def check(self, groups: Sequence[CandidateGroup], data: PreferenceSet) -> None:
        """Refuse conditions whose right result is not known (ValueError)."""
        del data
        unknown = [group.condition for group in groups if not self.truth.knows(group.condition)]
        if unknown:
            raise ValueError(
                f"{self.truth.name} knows nothing of {len(unknown)} of {len(groups)} conditions "
                f"({unknown[0]}); label with a judge or metrics"
            )

    def candidate_scores(
        self, group: CandidateGroup, data: PreferenceSet, host: Host
    ) -> CandidateScores:
        """Score every candidate."""
        host.check_cancelled()
        images = candidate_images(group, data).permute(0, 3, 1, 2)  # [N, 3, H, W]
        return CandidateScores(scores=self.truth.scores(group.condition, images))
