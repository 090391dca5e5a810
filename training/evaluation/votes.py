"""How finished edits are judged: by a judge in comparisons, by measures that need none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...fill.host import Host
from ...fill.task import Dimension, Task
from ...fill.wrapped_host import WrappedHost
from ...reward.judge import Judge
from ...reward.judging import VIEWS, View, score_pairs
from ...reward.metrics import seam_step, text_correct, texture_gap, tone_step
from ...reward.preference import split_of
from ...reward.query import Query, queries_for
from ...reward.report import sign_test, wilson_interval
from ..data.conditions import Condition, EditDataset, spread
from ..edited_image import EditedImage

GOOD, SAME, BAD = "good", "same", "bad"
_PURPOSE = {
    Task.FILL: {Dimension.TEXT_ALIGNMENT},
    Task.TEXT: {Dimension.TEXT_ALIGNMENT},
    Task.REMOVE: {Dimension.REMOVAL_QUALITY},
    Task.EXTEND: set(Dimension),
}
"""What an edit is made for, so that it has to be better than the image before it: an extension in
everything, the others only there. An untouched photograph cannot be beaten in consistency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """How often the first of two images is good, the same or bad compared with the second.

    Example: ``count_votes(["good", "bad", "same"]).interval``.
    """

    num_good: int
    num_same: int
    num_bad: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval (Wilson) of the win rate, good of decided; None if nothing is decided."""
        decided = self.num_good + self.num_bad
        return wilson_interval(self.num_good / decided, decided) if decided else None

    @property
    def p(self) -> float | None:
        """Two-sided sign test of good against bad; None if nothing is decided."""
        return sign_test(self.num_good, self.num_bad) if self.num_good + self.num_bad else None


def choose_conditions(conditions: EditDataset, split: str, num: int) -> list[Condition]:
    """Return conditions of a split (or ``all``), the tasks in turn, at most ``num`` (0 = all).

    Raises:
        ValueError: There is none.
    """
    pool = [c for c in conditions.conditions if split in ("all", split_of(c.name))]
    if not pool:
        raise ValueError(
            f"{conditions.folder} has no conditions of its {split} split, which takes a tenth of "
            "all; make more, or choose another split"
        )
    return spread(pool, num or len(pool))


def vote(chance: float, margin: float) -> str:
    """Turn P(first is better) into a vote; at most ``margin`` from one half is ``same``."""
    if abs(chance - 0.5) <= margin:
        return SAME
    return GOOD if chance > 0.5 else BAD


def count_votes(votes: Sequence[str]) -> Votes:
    """Count the votes of each kind."""
    return Votes(num_good=votes.count(GOOD), num_same=votes.count(SAME), num_bad=votes.count(BAD))


def view_for(judge: Judge, edit: EditedImage) -> View:
    """Return the view that a judge was trained with, of one edit."""
    source = edit.source.permute(1, 2, 0)[None]  # [1, H, W, 3]
    return View(kind=judge.notes.get("view", VIEWS[0]), mask=edit.mask[None], source=source)


def compare_with_baseline(
    judge: Judge, edit: EditedImage, baseline: EditedImage, host: Host
) -> dict[Dimension, float]:
    """Return P(the edit is better than the baseline's) per dimension, both orders averaged.

    Raises:
        JudgeError: The judge cannot answer Yes and No.
    """
    queries = queries_for(edit.condition.task, edit.condition.full_prompt)
    return _compare(judge, edit, baseline.image, queries, host)


def compare_with_source(judge: Judge, edit: EditedImage, host: Host) -> dict[Dimension, float]:
    """Return P(the edit is better than the image before it), in what the edit is for.

    Empty for a fill without a prompt: nothing was asked for.
    """
    task = edit.condition.task
    queries = queries_for(task, edit.condition.full_prompt)
    queries = [query for query in queries if query.dimension in _PURPOSE[task]]
    return _compare(judge, edit, edit.source, queries, host) if queries else {}


def measure_edit(edit: EditedImage, read_text: bool = False) -> dict[str, float | None]:
    """Return what needs no judge, by name; None where it cannot be measured.

    ``seam``: the visible step across the mask's border. ``tone``: how far the colours on its two
    sides are apart. ``texture``: how much busier or emptier the inside is, in powers of two.
    ``text``: share of the words that are readable, if asked for. The border is that of the
    condition's own mask, whatever grew it.
    """
    image, mask = edit.image.permute(1, 2, 0)[None], edit.mask[None]  # [1, H, W, 3], [1, H, W]
    measures: dict[str, float | None] = {
        "seam": _finite(seam_step(image, mask).clamp(min=0)),
        "tone": _finite(tone_step(image, mask)),
        "texture": _finite(texture_gap(image, mask)),
    }
    if read_text and edit.condition.task is Task.TEXT:
        measures["text"] = text_correct(image, edit.condition.text)[0]
    return measures


def _compare(
    judge: Judge, edit: EditedImage, opponent: Tensor, queries: Sequence[Query], host: Host
) -> dict[Dimension, float]:
    """Return P(the edit is better than another image ``[3, H, W]``) per dimension."""
    first, second = (image.permute(1, 2, 0)[None] for image in (edit.image, opponent))
    # Making the images is the long part and has moved the bar.
    silent = WrappedHost(host, quiet=True)
    (judgement,) = score_pairs(judge, (first, second), queries, silent, view_for(judge, edit))
    return judgement.probabilities


def _finite(value: Tensor) -> float | None:
    return None if math.isnan(float(value)) else float(value)
