"""Areas of one mask that are far apart: each is sampled as a crop of its own, at full detail.

One crop around all of them would be so large that it is sampled at a fraction of its size.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..recipe import Settings
from ..request import FillRequest
from ..task import Task
from .canvas import Job, Sizes, crop_sizes, make_jobs
from .geometry import NEARLY, Box

MAX_ISLANDS = 8
"""Most crops of one image; each costs as much as an image of its own."""
GRID = 128
"""Areas nearer to each other than this part of the canvas are one."""
MAX_AREAS = 32
"""A mask of more areas, such as dots all over the image, is one."""
LOW_SCALE = 0.5
"""A crop that is sampled at less than this scale is named in a note."""


def split_job(
    job: Job, request: FillRequest, models: Sizes, settings: Settings
) -> tuple[list[Job], tuple[str, ...]]:
    """Return the crops that show the areas of a job at full detail, and notes for the user.

    Each is the job of its area alone, which repaints the others too where it shows them, so that
    none of them serves as context. A job stays one where one crop shows enough, for the tasks
    extend and text (letters must not appear twice), and with a mask for stitching or context.

    Args:
        job: The job of the whole mask.
        request: The request that it is from.
        models: What the model says about sizes.
        settings: The size the model works at.
    """
    # Crops of their own for areas that one crop would show at a fraction of its size.
    jobs = [job.windowed()]
    is_whole = request.stitch_mask is not None or request.context_mask is not None
    can_split = request.config.crop_to_context and request.task in (Task.FILL, Task.REMOVE)
    if can_split and not is_whole and _scale(job.box, job.content) < NEARLY:
        areas, cell = _areas(job, request, models, settings)
        if len(areas) > 1:
            parts = (_island(job, area, cell, request, models, settings) for area in areas)
            jobs = [part.windowed() for part in parts]
    # What the user should know of them.
    notes = job.notes
    if len(jobs) > 1:
        notes = (
            *notes,
            f"the mask has {len(jobs)} areas far apart; each is sampled as a crop of its own",
        )
    low = min(jobs, key=lambda island: _scale(island.box, island.content))
    if _scale(low.box, low.content) < LOW_SCALE:
        notes = (
            *notes,
            f"a crop of {low.box.width}x{low.box.height} pixels is sampled at "
            f"{low.content[0]}x{low.content[1]}, so fine detail is lost; paint a smaller mask, or "
            "several far apart",
        )
    return jobs, notes


def _scale(box: Box, content: tuple[int, int]) -> float:
    return (content[0] * content[1] / (box.width * box.height)) ** 0.5


def _areas(
    job: Job, request: FillRequest, models: Sizes, settings: Settings
) -> tuple[list[torch.Tensor], int]:
    """Return the areas to sample apart, as coarse masks ``[h, w]``, bool, and the coarse pixel."""

    def scale(box: Box) -> float:
        box, content, _ = crop_sizes(box, request, models, settings, job.canvas)
        return _scale(box, content)

    labels, boxes, cell = _coarse_labels(job.repaint)
    if len(boxes) > MAX_AREAS:
        return [labels > 0], cell
    # Labels, box, and the scale at which its areas would be sampled alone.
    groups = [({index + 1}, box, min(scale(box), 1.0)) for index, box in enumerate(boxes)]
    while len(groups) > 1:
        # The two whose common crop loses least.
        unions = {
            (a, b): _union(groups[a], groups[b]) for a, b in combinations(range(len(groups)), 2)
        }
        losses = {pair: scale_alone / scale(box) for pair, (_, box, scale_alone) in unions.items()}
        nearest = min(losses, key=lambda pair: losses[pair])
        if losses[nearest] > 1 / NEARLY and len(groups) <= MAX_ISLANDS:
            break
        groups = [group for i, group in enumerate(groups) if i not in nearest]
        groups.append(unions[nearest])
    return [torch.isin(labels, torch.tensor(sorted(ids))) for ids, _, _ in groups], cell


def _union(
    a: tuple[set[int], Box, float], b: tuple[set[int], Box, float]
) -> tuple[set[int], Box, float]:
    return a[0] | b[0], a[1].union(b[1]), min(a[2], b[2])


def _coarse_labels(repaint: torch.Tensor) -> tuple[torch.Tensor, list[Box], int]:
    """Return labels ``[h, w]``, from 1, of areas that do not touch.

    Also their boxes in pixels of ``repaint [H, W]``, and the side of a label in pixels.
    """
    from scipy import ndimage

    height, width = repaint.shape
    cell = max(1, max(height, width) // GRID)
    pad = (0, -width % cell, 0, -height % cell)
    coarse = F.max_pool2d(F.pad(repaint.float()[None], pad), cell)[0] > 0
    labelled: Any = ndimage.label(coarse.numpy(), np.ones((3, 3)))
    slices: Any = ndimage.find_objects(labelled[0])
    boxes = [
        Box(
            cols.start * cell,
            rows.start * cell,
            min(cols.stop * cell, width),
            min(rows.stop * cell, height),
        )
        for rows, cols in slices
    ]
    return torch.from_numpy(labelled[0]), boxes, cell


def _island(
    job: Job,
    coarse: torch.Tensor,
    cell: int,
    request: FillRequest,
    models: Sizes,
    settings: Settings,
) -> Job:
    """Return the job of one area, with the border that a mask of its size gets."""
    height, width = job.repaint.shape
    area = coarse.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
    area = area & job.repaint
    mask = torch.where(area, job.mask, 0.0)
    alone = replace(request, image=job.canvas[None], mask=mask)
    (island,) = make_jobs(alone, models, settings)
    assert island is not None, "an area is painted"
    return replace(island, repaint=island.repaint | (job.repaint & ~area))
