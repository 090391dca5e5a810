"""A probe on the judge's image tokens: it predicts what each 8x8 cell of an image shows.

Answers to questions teach slowly, a few facts per image. The probe has a target for every cell of
every image, so the vision tower learns before the language model learns to answer. It is trained
together with the tower and is not exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reward.vlm.qwen_vl import EncodedImage
from ..world.cell_labels import CELL
from .pairs.vqa_questions import LABEL_SIZES, VqaBatch


class CellProbe(nn.Module):
    """One linear layer from a token to the labels of the cells it covers.

    Example: ``probe_loss(make_probe(160, 16, seed=0)(encoded), batch)``.
    """

    def __init__(self, width: int, cells: int) -> None:
        """Make an untrained probe.

        Args:
            width: Width of an image token.
            cells: Cells along one side of a token.
        """
        super().__init__()
        self._cells = cells
        self.head = nn.Linear(width, sum(LABEL_SIZES) * cells**2)
        # Zeros: the tokens decide the first predictions, not the probe's random weights.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, encoded: Sequence[EncodedImage]) -> list[Tensor]:
        """Return logits per label: ``[B, size, H, W]``, H and W counted in cells."""
        tokens = torch.stack([image.tokens for image in encoded]).to(self.head.weight.dtype)
        rows, cols, side = encoded[0].rows, encoded[0].cols, self._cells
        out = self.head(tokens).view(len(encoded), rows, cols, side, side, -1)
        grid = out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return list(grid.float().split(LABEL_SIZES, dim=1))


def make_probe(width: int, token_side: int, seed: int) -> CellProbe:
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
        return CellProbe(width, token_side // CELL)


def probe_loss(logits: Sequence[Tensor], batch: VqaBatch) -> Tensor:
    """Return the mean cross entropy of all labels of all cells."""
    labels = batch.cell_labels.unbind(1)
    losses = [F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]
    return torch.stack(losses).mean()
