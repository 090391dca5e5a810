"""Contact sheets: many images as one, for a node's preview."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...reward.preference import CandidateGroup, PreferenceSet
from ..data.conditions import EditDataset, read_image

CELL = 160
"""Side of an image's cell, in pixels."""
GAP = 4
NUM_CONDITIONS = 16
NUM_GROUPS = 8
MASK_COLOUR = (1.0, 0.3, 0.2)


def contact_sheet(images: Sequence[Tensor], columns: int) -> Tensor:
    """Lay images ``[H, W, 3]``, 0..1, of any sizes on a white grid; return ``[1, H, W, 3]``."""
    rows = -(-len(images) // columns)
    pitch = CELL + GAP
    sheet = torch.ones(rows * pitch + GAP, columns * pitch + GAP, 3)
    for index, image in enumerate(images):
        thumbnail = _shrink(image)
        height, width = thumbnail.shape[:2]
        row, column = divmod(index, columns)
        top = GAP + row * pitch + (CELL - height) // 2
        left = GAP + column * pitch + (CELL - width) // 2
        sheet[top : top + height, left : left + width] = thumbnail
    return sheet[None]


def conditions_sheet(conditions: EditDataset) -> Tensor:
    """Show the first conditions, what is to be repainted in red; ``[1, H, W, 3]``, 0..1."""
    overlays = []
    for condition in conditions.conditions[:NUM_CONDITIONS]:
        image, mask = (tensor[0] for tensor in conditions.images(condition))
        alpha = 0.5 * mask[..., None]
        overlays.append(image * (1 - alpha) + torch.tensor(MASK_COLOUR) * alpha)
    return contact_sheet(overlays, columns=4)


def candidates_sheet(data: PreferenceSet, groups: Sequence[CandidateGroup]) -> Tensor:
    """Show the first groups, one per row: source, then candidates; ``[1, H, W, 3]``, 0..1."""
    groups = groups[:NUM_GROUPS]
    columns = 1 + max((len(group.file_names) for group in groups), default=0)
    images: list[Tensor] = []
    for group in groups:
        names = [group.source_file_name, *group.file_names]
        row = [read_image(data.image(name)) for name in names if name]
        images += [*row, *[torch.ones(1, 1, 3)] * (columns - len(row))]
    return contact_sheet(images, columns)


def _shrink(image: Tensor) -> Tensor:
    """Fit an image ``[H, W, 3]`` into a cell."""
    scale = CELL / max(image.shape[:2])
    size = [max(round(side * scale), 1) for side in image.shape[:2]]
    channels_first = image.permute(2, 0, 1)[None].float()  # [1, 3, H, W]
    resized = F.interpolate(
        channels_first, size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).clamp(0, 1)
