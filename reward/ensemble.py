"""Several judges as one: the mean of what they say, or what the worst one says.

The worst is the least P(the first image is better): pessimistic about the first image, which in
training is the one that is improved. Asked in both orders, as Score and Pick Best do, that cancels:
the result lies in the middle of the lowest and the highest judge, and swapping swaps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..fill.io.file_digest import fingerprint_files
from ..fill.io.json_text import shorten
from ..fill.json_config import JsonConfig, setting
from ..fill.memory.components import Component
from .judge import Judge, JudgeError, PairQuestion

KIND = "ensemble"
"""Marks its values among those of other judges."""
MEAN, WORST = COMBINATIONS = ("mean", "worst")
MAX_JUDGES = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig(JsonConfig):
    """Which judges, and how. Example: ``EnsembleConfig(judges=({"folder": "bundled"},) * 2)``."""

    judges: tuple[dict[str, Any], ...] = ()
    """Values of each, as :meth:`~.judge.Judge.to_values` returns them."""
    combine: str = setting(
        MEAN,
        "mean = the mean of all judges; worst = the judge that likes the first image least.",
        options=COMBINATIONS,
    )

    def __post_init__(self) -> None:
        """Refuse too few judges and too many."""
        JsonConfig.__post_init__(self)
        if not 2 <= len(self.judges) <= MAX_JUDGES:
            raise ValueError(
                f"an ensemble of {len(self.judges)} judges is none; give 2 to {MAX_JUDGES}"
            )


class EnsembleJudge:
    """Asks every judge the same and combines the answers; differentiable if all of them are.

    Example: ``EnsembleJudge((judge, other), WORST).probabilities(questions)``.

    Attributes:
        judges: Its members.
        combine: :data:`MEAN` or :data:`WORST`.

    Raises:
        ValueError: There are too few or too many, or they were trained with different views, of
            which all are shown the same one.
    """

    def __init__(self, judges: Sequence[Judge], combine: str = MEAN) -> None:
        self.judges, self.combine = tuple(judges), combine
        EnsembleConfig(judges=tuple({} for _ in judges), combine=combine)
        views = {j.notes["view"]: j.label for j in judges if j.notes.get("view")}
        if len(views) > 1:
            names = " but ".join(f"{label} with {view}" for view, label in list(views.items())[:2])
            raise ValueError(
                f"{names} is how these judges were trained, and an ensemble shows the same to all; "
                "choose judges of one view, or connect them to OneReward Train one by one"
            )
        self._view = next(iter(views), "")

    @property
    def label(self) -> str:
        """The combination and its members' names."""
        return f"{self.combine}({', '.join(judge.label for judge in self.judges)})"

    @property
    def identity(self) -> str:
        """A digest of its members' identities and the combination."""
        return fingerprint_files([], KIND, self.combine, *(j.identity for j in self.judges))

    @property
    def digest(self) -> str:
        """A digest of its members' digests and the combination."""
        return fingerprint_files([], KIND, self.combine, *(j.digest for j in self.judges))

    @property
    def folder(self) -> Path | None:
        """None: the reports are its members'."""
        return None

    @property
    def notes(self) -> dict[str, Any]:
        """The view of its members, if they know one."""
        return {"view": self._view} if self._view else {}

    @property
    def needs_source(self) -> bool:
        """Whether a member does."""
        return any(judge.needs_source for judge in self.judges)

    @property
    def is_differentiable(self) -> bool:
        """Whether all members are."""
        return all(judge.is_differentiable for judge in self.judges)

    @property
    def components(self) -> tuple[Component, ...]:
        """Those of its members, each once."""
        return tuple(dict.fromkeys(c for judge in self.judges for c in judge.components))

    def to_values(self) -> dict[str, Any]:
        """Return kind, the values of its members and the combination."""
        judges = [judge.to_values() for judge in self.judges]
        return {"kind": KIND, "judges": judges, "combine": self.combine}

    def check(self) -> None:
        """Check every member; raises as they do, and names the one."""
        for index in range(len(self.judges)):
            self._ask(index, lambda judge: judge.check())

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        """Return the activations of the largest member: they work one after another."""
        return max(judge.working_bytes(pixels, rows) for judge in self.judges)

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        """Return the activations of all members, which the gradient needs together."""
        return sum(judge.training_bytes(pixels, rows, recompute) for judge in self.judges)

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[tuple[Any, ...]]:
        """Return of every image ``[3, H, W]``, 0..1, what each member makes of it."""
        encoded = [self._ask(i, lambda j: j.encode_images(images)) for i in range(len(self.judges))]
        return list(zip(*encoded, strict=True))

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return P(the first image is better), combined, ``[len(questions)]``, float32.

        Raises:
            JudgeError: A member cannot answer; names it. Nothing is left out in silence.
        """
        answers = []
        for index, judge in enumerate(self.judges):
            own_questions = [_for_member(q, index, judge.needs_source) for q in questions]
            answers.append(self._ask(index, lambda j, q=own_questions: j.probabilities(q)))
        device = next((p.device for p in answers if p.device.type != "cpu"), answers[0].device)
        stacked = torch.stack([p.float().to(device) for p in answers])  # [J, N]
        return stacked.amin(dim=0) if self.combine == WORST else stacked.mean(dim=0)

    def _ask(self, index: int, call: Callable[[Judge], T]) -> T:
        with _naming(self.judges[index], index):
            return call(self.judges[index])


def members_of(judge: Judge) -> list[Judge]:
    """Return the judges that an ensemble is of, down to those that are none; else the judge itself.

    Example: ``[read_report(j.folder) for j in members_of(judge) if j.folder]``.
    """
    if not isinstance(judge, EnsembleJudge):
        return [judge]
    return [member for part in judge.judges for member in members_of(part)]


@contextmanager
def _naming(judge: Judge, index: int) -> Iterator[None]:
    try:
        yield
    except JudgeError as error:
        raise JudgeError(shorten(f"judge {index + 1} ({judge.label}): {error}")) from error


def _for_member(question: PairQuestion, index: int, needs_source: bool) -> PairQuestion:
    source = question.source[index] if needs_source and question.source is not None else None
    return question._replace(
        first=question.first[index], second=question.second[index], source=source
    )
