"""A judge whose probabilities are corrected by a calibration that was made of this very judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..fill.io.file_digest import fingerprint_files
from ..fill.io.json_text import label_of
from ..fill.json_config import JsonConfig
from ..fill.memory.components import Component
from .calibration import FILE_NAME, TEMPERATURE, cell_name, read_calibration
from .judge import Judge, PairQuestion
from .query import Query

KIND = "calibrated"
"""Marks its values among those of other judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedConfig(JsonConfig):
    """A judge and its calibration. Example: ``CalibratedConfig(judge={}, folder="report")``."""

    judge: dict[str, Any]
    """Values of the judge, as :meth:`~.judge.Judge.to_values` returns them."""
    folder: str
    """Folder of its ``calibration.json``."""


class CalibratedJudge:
    """Corrects what another judge says; differentiable by temperature, not by isotonic steps.

    Example: ``CalibratedJudge(judge, folder).probabilities(questions)``.

    Attributes:
        judge: The other one.
        calibration: What of it is corrected.

    Raises:
        FileNotFoundError: The folder has no calibration.
        ValueError: It is damaged, or of another judge.
    """

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge, self._folder = judge, folder
        self.calibration = read_calibration(folder)
        if self.calibration.judge != judge.identity:
            raise ValueError(
                f"{label_of(folder / FILE_NAME)} was made of another judge than {judge.label}, or "
                "of other settings of it; calibrate this one under another name"
            )

    @property
    def label(self) -> str:
        """The judge's name and the method."""
        return f"{self.judge.label}+{self.calibration.method}"

    @property
    def identity(self) -> str:
        """A digest of the judge's identity and the calibration."""
        return fingerprint_files([], KIND, self.judge.identity, self.calibration.to_json())

    @property
    def digest(self) -> str:
        """A digest of the judge's weights and the calibration."""
        return fingerprint_files([], KIND, self.judge.digest, self.calibration.to_json())

    @property
    def folder(self) -> Path | None:
        """The calibration's, where a report of the calibrated judge is, too."""
        return self._folder

    @property
    def notes(self) -> dict[str, Any]:
        """The judge's, and the view that it was calibrated with."""
        view = self.calibration.view
        return {**self.judge.notes, **({"view": view} if view else {})}

    @property
    def needs_source(self) -> bool:
        """As the judge."""
        return self.judge.needs_source

    @property
    def is_differentiable(self) -> bool:
        """As the judge, if the calibration is by temperature."""
        return self.judge.is_differentiable and self.calibration.method == TEMPERATURE

    @property
    def components(self) -> tuple[Component, ...]:
        """The judge's."""
        return self.judge.components

    def to_values(self) -> dict[str, Any]:
        """Return kind, the judge's values and the folder of the calibration."""
        return {"kind": KIND, "judge": self.judge.to_values(), "folder": str(self._folder)}

    def check(self) -> None:
        """Check the judge; raises as it does."""
        self.judge.check()

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        """Return the judge's."""
        return self.judge.working_bytes(pixels, rows)

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        """Return the judge's."""
        return self.judge.training_bytes(pixels, rows, recompute)

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[Any]:
        """Return what the judge makes of images ``[3, H, W]``, 0..1."""
        return self.judge.encode_images(images)

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return calibrated P(the first image is better), ``[len(questions)]``, float32."""
        p = self.judge.probabilities(questions)
        return self.calibration.applied(p, [_cell(question) for question in questions])


def _cell(question: PairQuestion) -> str:
    """Return the cell of a question; any other kind of question has the temperature of all."""
    query = question.query
    return cell_name(query.criterion) if isinstance(query, Query) else ""
