"""An auxiliary head that predicts the quality of a single image.

A pair gives one bit per dimension. A single image has scores, a rank among other results of its
scene, its artifacts per 8x8 cell, and an overlap with each of the shapes that a prompt can name.
The head predicts all of that from the image tokens, so that the vision tower learns what the oracle
measures and the judge's answer only has to compare. It is trained beside the judge and is not
exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reward.vlm.qwen_vl import EncodedImage
from ..oracle import DIMENSIONS, composite
from ..world.cell_labels import CELL
from ..world.conditions import TASKS, Conditions
from ..world.measure import gradients
from ..world.nearest import nearest_truth
from ..world.shapes import SHAPE_NAMES

NUM_MAPS = 7
"""Numbers per cell: colour offset (3), fine error, error, share under the mask, sharpness."""
_OFFSET, _FINE, _FAINT = 0.05, 0.005, 0.02
"""Sizes, 0..1, from which on offset, fine error and error are measured ever more coarsely."""
_EDGE = 0.02
"""The same for sharpness, per pixel."""
_ALIGNMENT = DIMENSIONS.index("text_alignment")


class QualityHead(nn.Module):
    """Linear layers on tokens: scores, ranks and overlaps from their mean, maps from each.

    Text alignment has an output of its own for every shape that a prompt can name.

    Example: ``QualityHead(160, 16).utility(encoded, task, shape)``  # [N, D]
    """

    def __init__(self, width: int, token_side: int) -> None:
        """Make an untrained head for tokens of ``token_side`` pixels."""
        super().__init__()
        self._cells = token_side // CELL
        columns = len(TASKS) * (len(DIMENSIONS) + len(SHAPE_NAMES))
        self.scores = nn.Linear(width, columns)
        self.utilities = nn.Linear(width, columns)
        self.overlaps = nn.Linear(width, len(SHAPE_NAMES))
        self.maps = nn.Linear(width, NUM_MAPS * self._cells**2)
        # Zeros: the tokens decide the first predictions, not the head's random weights.
        for layer in (self.scores, self.utilities, self.overlaps, self.maps):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def utility(self, encoded: Sequence[EncodedImage], task: Tensor, shape: Tensor) -> Tensor:
        """Return how good images are, `[N, D]`: the difference of two is the logit of a win.

        Args:
            encoded: N images.
            task: int64 `[N]`.
            shape: int64 `[N]`, the shape that the prompt names; -1 for none.
        """
        return self._of_task(self.utilities, _means(encoded), task, shape)

    def loss(
        self,
        encoded: Sequence[EncodedImage],
        conditions: Conditions,
        scores: Tensor,
        overlaps: Tensor,
        maps: Tensor,
        margin: Tensor,
    ) -> Tensor:
        """Return the sum of the losses of scores, ranks, overlaps and maps.

        Scores and overlaps: cross entropy above its least possible value. Ranks: minus the
        log-probability that the better of two images of a scene wins (Bradley and Terry, 1952).
        Maps: squared error.

        Args:
            encoded: G scenes times P images, the images of a scene together.
            conditions: Their scenes, `G P`.
            scores: float32 `[G, P, D]` in 0..1; NaN where a task is not judged on a dimension.
            overlaps: float32 `[G P, 6]` in 0..1, with each shape; used in fill alone.
            maps: float32 `[G P, NUM_MAPS, 8, 8]`.
            margin: float32 `[D]`: smaller differences of scores rank nothing.
        """
        # Scores.
        means, task, shape = _means(encoded), conditions.task, conditions.shape
        is_judged = ~scores.isnan()
        logits = self._of_task(self.scores, means, task, shape).view_as(scores)
        score_loss = _divergence(logits[is_judged], scores[is_judged])
        # Ranks: every ordered pair of images of a scene, `[G, P, P, D]`.
        utility = self._of_task(self.utilities, means, task, shape).view_as(scores)
        is_better = (scores[:, :, None] - scores[:, None]) >= margin
        lead = (utility[:, :, None] - utility[:, None])[is_better]
        rank_loss = F.softplus(-lead).mean() if len(lead) else lead.sum()
        # Overlaps with each shape, and maps.
        is_fill = task == TASKS.index("fill")
        overlap_loss = _divergence(self.overlaps(means[is_fill]), overlaps[is_fill])
        map_loss = F.mse_loss(self.predict_maps(encoded), maps)
        return score_loss + rank_loss + overlap_loss + map_loss

    def predict_maps(self, encoded: Sequence[EncodedImage]) -> Tensor:
        """Return the predicted maps, `[N, NUM_MAPS, 8, 8]`."""
        tokens = torch.stack([image.tokens.float() for image in encoded])
        rows, cols, side = encoded[0].rows, encoded[0].cols, self._cells
        out = self.maps(tokens).view(len(encoded), rows, cols, side, side, NUM_MAPS)
        return out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _of_task(self, layer: nn.Linear, means: Tensor, task: Tensor, shape: Tensor) -> Tensor:
        rows = torch.arange(len(means))
        values = layer(means).view(len(means), len(TASKS), -1)[rows, task]
        values, of_shape = values.split([len(DIMENSIONS), len(SHAPE_NAMES)], dim=1)
        extra = torch.where(shape >= 0, of_shape[rows, shape.clamp(min=0)], 0.0)
        alignment = F.one_hot(torch.tensor(_ALIGNMENT), len(DIMENSIONS))
        return values + extra[:, None] * alignment


def _means(encoded: Sequence[EncodedImage]) -> Tensor:
    return torch.stack([image.tokens.float().mean(0) for image in encoded])  # [N, W]


def _divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy above its least possible value; 0 without targets."""
    if not len(targets):
        return logits.sum()
    targets = targets.clamp(0.01, 0.99)
    least = F.binary_cross_entropy(targets, targets)
    return F.binary_cross_entropy_with_logits(logits, targets) - least


@torch.no_grad()
def maps_of(images: Tensor, conditions: Conditions) -> Tensor:
    """Return what is wrong with results per cell of 8x8 pixels: float32 `[B, NUM_MAPS, 8, 8]`.

    Measured against the nearest right result: asinh(o / 0.05) of the mean offset o per colour,
    log(1 + f / 0.005) of the RMS f of what a 3x3 blur removes from the error, log(1 + e / 0.02) of
    the mean absolute error e, the share of the cell under the mask, and asinh(s / 0.02) of the
    difference s of the RMS gradients, below zero where edges are softer than they should be.

    Args:
        images: float32 `[B, 3, 64, 64]` in 0..1, one per scene.
        conditions: The scenes.
    """
    image, truth = composite(images, conditions), nearest_truth(images, conditions)
    error = image - truth
    fine = error - F.avg_pool2d(error, 3, 1, 1, count_include_pad=False)
    power = fine.square().mean(1, keepdim=True)
    edges, ideal = (
        F.avg_pool2d(gradients(x).square().mean(1, keepdim=True), CELL).sqrt()
        for x in (image, truth)
    )
    maps = (
        (F.avg_pool2d(error, CELL) / _OFFSET).asinh(),
        (F.avg_pool2d(power, CELL).sqrt() / _FINE).log1p(),
        (F.avg_pool2d(error.abs().mean(1, keepdim=True), CELL) / _FAINT).log1p(),
        F.avg_pool2d(conditions.mask[:, None], CELL),
        ((edges - ideal) / _EDGE).asinh(),
    )
    return torch.cat(maps, 1)
