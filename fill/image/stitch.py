"""Puts a sampled crop back into its image; what the mask does not reach stays bit for bit."""

from __future__ import annotations

import torch

from .canvas import Job
from .colour import correct_colour
from .mask import composite


def stitch(
    job: Job, pixels: torch.Tensor, correction: float, onto: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the job's whole image ``[H, W, 3]``, 0..1, with the new area in it.

    Args:
        job: The image, its masks and its crop.
        pixels: Decoded crop ``[3, h, w]``, -1..1, at the sampled size.
        correction: Share of the tone shift to take back, 0..1.
        onto: The image to write into, which has other areas already; None: a copy of the source.
    """
    rows, cols = job.box.rows, job.box.cols
    old, alpha = job.canvas[rows, cols], job.crop(job.alpha)
    # What the model repainted and what is not pasted are both no witness of the tone shift.
    unknown = torch.maximum(alpha, job.crop(job.repaint).to(alpha.dtype))
    new = correct_colour(job.to_crop(pixels), old, unknown, correction)
    canvas = job.canvas.clone() if onto is None else onto
    canvas[rows, cols] = composite(new, canvas[rows, cols], alpha)
    return canvas
