"""A judge that prefers brighter images: its truth is a mean, and no gradient passes through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from onereward.reward.judge import PairQuestion


class BrightnessJudge:
    """Prefers what is brighter, surely from a twentieth on; a `Judge` that needs no weights."""

    label = "brightness"
    identity = digest = "brightness"
    folder: Path | None = None
    needs_source = False
    is_differentiable = False
    components = ()

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        self.num_encoded = 0

    def to_values(self) -> dict[str, Any]:
        return {"folder": "brightness"}

    def check(self) -> None:
        pass

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        return pixels * rows

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        raise AssertionError("nothing is learned through it")

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[Any]:
        self.num_encoded += len(images)
        return [float(image.mean()) for image in images]

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        gaps = torch.tensor([q.first - q.second for q in questions])
        return torch.sigmoid(100 * gaps)
