"""A probe on the judge's image tokens: what each small part of an image shows.

Answers to questions teach an image slowly, a few facts at a time. The probe asks every part of
every image at once, so the vision tower learns to see before the language model learns to
answer. It is trained together with the tower and left behind when the judge is exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reward.qwen_vl import EncodedImage
from ..world.cell_labels import CELL
from .pairs.vqa_questions import MARK_SIZES, VqaBatch


class Probe(nn.Module):
    """One linear layer from a token to the marks of the cells it covers."""

    def __init__(self, width: int, cells: int) -> None:
        """Make an untrained probe.

        Args:
            width: Width of an image token.
            cells: Cells along one side of a token.
        """
        super().__init__()
        self._cells = cells
        self.head = nn.Linear(width, sum(MARK_SIZES) * cells**2)
        # What the tower sees should decide the first answers, not the probe's chance weights.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, encoded: Sequence[EncodedImage]) -> list[Tensor]:
        """Return logits per mark: ``[B, size, H, W]``, H and W counted in cells."""
        tokens = torch.stack([one.tokens for one in encoded]).to(self.head.weight.dtype)
        rows, cols, side = encoded[0].rows, encoded[0].cols, self._cells
        out = self.head(tokens).view(len(encoded), rows, cols, side, side, -1)
        grid = out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return list(grid.float().split(MARK_SIZES, dim=1))


def make_probe(width: int, token_side: int, seed: int) -> Probe:
    """Make a probe for tokens of ``token_side`` pixels; its weights depend on the seed alone.

    Raises:
        ValueError: If tokens are no multiple of a cell.
    """
    if token_side % CELL:
        raise ValueError(
            f"an image token is {token_side} pixels wide, but the probe needs a multiple of {CELL}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return Probe(width, token_side // CELL)


def probe_loss(logits: Sequence[Tensor], batch: VqaBatch) -> Tensor:
    """Return the mean cross entropy of all marks of all cells."""
    marks = batch.marks.unbind(1)
    losses = [F.cross_entropy(one, mark) for one, mark in zip(logits, marks, strict=True)]
    return torch.stack(losses).mean()
