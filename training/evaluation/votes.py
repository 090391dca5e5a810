"""What can be said of finished edits: by a judge, by measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from torch import Tensor

from ...fill.host import Host
from ...fill.task import Dimension, Task
from ...fill.wrapped_host import WrappedHost
from ...reward.judging import VIEWS, View, score_pairs
from ...reward.metrics import seam_step, text_correct, texture_gap, tone_step
from ...reward.preference import split_of
from ...reward.query import Query, queries_for
from ...reward.qwen_vl import QwenJudge
from ...reward.report import sign_test, wilson_interval
from ..data.conditions import Condition, EditDataset, spread

GOOD, SAME, BAD = "good", "same", "bad"
_ASKED_FOR = {
    Task.FILL: {Dimension.TEXT_ALIGNMENT},
    Task.TEXT: {Dimension.TEXT_ALIGNMENT},
    Task.REMOVE: {Dimension.REMOVAL_QUALITY},
    Task.EXTEND: set(Dimension),
}
"""What an edit is made for, so that it has to be better than the image before it: an extension in
everything, the others only there. An untouched photograph cannot be beaten in consistency."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edit:
    """A condition and what became of it."""

    condition: Condition
    source: Tensor
    """``[H, W, 3]``, 0..1; likewise the image."""
    mask: Tensor
    """``[H, W]``, 1 = repainted."""
    image: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """How often the first of two is good, the same or bad beside the second."""

    good: int
    same: int
    bad: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval (Wilson) of good among good and bad; None if nothing is decided."""
        decided = self.good + self.bad
        return wilson_interval(self.good / decided, decided) if decided else None

    @property
    def p(self) -> float | None:
        """Two-sided sign test of good against bad; None if nothing is decided."""
        return sign_test(self.good, self.bad) if self.good + self.bad else None


def choose(conditions: EditDataset, split: str, num: int) -> list[Condition]:
    """Return conditions of a split (or ``all``), the tasks in turn, at most ``num`` (0 = all).

    Raises:
        ValueError: There is none.
    """
    found = [c for c in conditions.conditions if split in ("all", split_of(c.name))]
    if not found:
        raise ValueError(
            f"{conditions.folder} has no conditions of its {split} split, which takes a tenth of "
            "all; make more, or choose another split"
        )
    return spread(found, num or len(found))


def vote(chance: float, margin: float) -> str:
    """Return what P(first is better) says, where nearer to one half than ``margin`` is same."""
    if abs(chance - 0.5) <= margin:
        return SAME
    return GOOD if chance > 0.5 else BAD


def count_votes(votes: Sequence[str]) -> Votes:
    """Count them."""
    return Votes(good=votes.count(GOOD), same=votes.count(SAME), bad=votes.count(BAD))


def view_for(judge: QwenJudge, source: Tensor, mask: Tensor) -> View:
    """Return the view that a judge was trained with, of one edit."""
    return View(kind=judge.notes.get("view", VIEWS[0]), mask=mask[None], source=source[None])


def ask(judge: QwenJudge, edit: Edit, baseline: Tensor, host: Host) -> dict[Dimension, float]:
    """Return P(the edit is better than a baseline ``[H, W, 3]``) per dimension, both orders averaged.

    Raises:
        JudgeError: The judge cannot answer Yes and No.
    """
    return _asked(judge, edit, baseline, queries_for(edit.condition.task, _prompt(edit)), host)


def ask_beside_source(judge: QwenJudge, edit: Edit, host: Host) -> dict[Dimension, float]:
    """Return P(the edit is better than the image before it), in what the edit is for.

    Empty for a fill without a prompt: nothing was asked for.
    """
    task = edit.condition.task
    queries = [q for q in queries_for(task, _prompt(edit)) if q.dimension in _ASKED_FOR[task]]
    return _asked(judge, edit, edit.source, queries, host) if queries else {}


def measure_edit(edit: Edit, read_text: bool = False) -> dict[str, float | None]:
    """Return what needs no judge, by name; None where it cannot be said.

    ``seam``: the visible step across the mask's border. ``tone``: how far the colours on its two
    sides are apart. ``texture``: how much busier or emptier the inside is, in powers of two.
    ``words``: share of the words that are readable, if asked for. The border is that of the
    condition's own mask, whatever grew it.
    """
    image, mask = edit.image[None], edit.mask[None]
    made: dict[str, float | None] = {
        "seam": _number(seam_step(image, mask).clamp(min=0)),
        "tone": _number(tone_step(image, mask)),
        "texture": _number(texture_gap(image, mask)),
    }
    if read_text and edit.condition.task is Task.TEXT:
        made["text"] = text_correct(image, edit.condition.text)[0]
    return made


def mean_chance(chances: dict[Dimension, float]) -> float:
    """Return the mean over the dimensions."""
    return fmean(chances.values())


def _asked(
    judge: QwenJudge, edit: Edit, baseline: Tensor, queries: Sequence[Query], host: Host
) -> dict[Dimension, float]:
    view = view_for(judge, edit.source, edit.mask)
    pair = (edit.image[None], baseline[None])
    # Images are the long part and have moved the bar.
    (said,) = score_pairs(judge, pair, queries, WrappedHost(host, quiet=True), view)
    return said.probabilities


def _prompt(edit: Edit) -> str:
    return edit.condition.full_prompt


def _number(value: Tensor) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number
