"""An edit that another program samples: crops and masks out, decoded images back in.

Requests, crops, masks and recipes are those of :mod:`.pipeline`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .checkpoint.shapes import FLUX_SCHEDULER
from .image.canvas import Job, make_jobs
from .image.stitch import stitch
from .recipe import Recipe, Settings, resolve_settings
from .request import FillRequest
from .sampling.schedule import make_mu, make_sigmas


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What the crops depend on."""

    recipe: Recipe
    multiple: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NativeEdit:
    """An edit between crop and stitching. Example: ``prepare_native(request, ONEREWARD, 8)``."""

    request: FillRequest
    settings: Settings
    recipe: Recipe
    jobs: tuple[Job | None, ...]
    """One per image; None where its mask is empty."""
    num_tokens: int
    """Packed latents of a crop; they decide the shift of the schedule."""

    def model_input(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pixels ``[B, 3, h, w]`` in -1..1 and binary masks ``[B, h, w]``.

        B counts the images with a mask, ``num_candidates`` times each, one after the other.
        """
        inputs = [job.model_input() for job in self.jobs if job is not None]
        num = self.request.config.num_candidates
        pixels, masks = zip(*inputs, strict=True)
        return (
            torch.stack(pixels).repeat_interleave(num, 0),
            torch.stack(masks).repeat_interleave(num, 0),
        )

    def notes(self) -> list[str]:
        """Return what the user should know of the masks, each sentence once."""
        return list(dict.fromkeys(note for job in self.jobs if job for note in job.notes))

    def sigmas(self) -> torch.Tensor:
        """Return the recipe's noise levels, ``steps + 1`` of them."""
        shift = self.request.config.shift
        return make_sigmas(FLUX_SCHEDULER, self.settings.steps, self.num_tokens, shift)

    def mu(self) -> float:
        """Return the exponent of the schedule's shift, as FLUX models in ComfyUI take it."""
        shift = self.request.config.shift
        return math.log(shift) if shift > 0 else make_mu(FLUX_SCHEDULER, self.num_tokens)

    def stitch(self, decoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Put decoded images ``[B, h, w, 3]``, 0..1, back into theirs.

        Returns:
            Images ``[N, H, W, 3]`` and how much of each pixel is new ``[N, H, W]``; an image
            without a mask is among them as it was.

        Raises:
            ValueError: The number or the size of the decoded images is not that of this edit.
        """
        num = self.request.config.num_candidates
        real = [job for job in self.jobs if job is not None]
        width, height = real[0].padded
        if tuple(decoded.shape[:3]) != (len(real) * num, height, width):
            raise ValueError(
                f"image has {decoded.shape[0]} images of {decoded.shape[2]}x{decoded.shape[1]} "
                f"pixels, but this edit needs {len(real) * num} of {width}x{height} pixels; "
                "connect the decoded latent of the same edit"
            )
        # [B, 3, h, w], -1..1
        crops = iter(decoded.detach().to("cpu", torch.float32).permute(0, 3, 1, 2) * 2 - 1)
        correction = self.request.config.colour_correction
        images, masks = [], []
        for b, job in enumerate(self.jobs):
            source = self.request.image[b % self.request.image.shape[0]].detach()
            for _ in range(num):
                images.append(
                    source.to("cpu", torch.float32)
                    if job is None
                    else stitch(job, next(crops), correction)
                )
                masks.append(torch.zeros(source.shape[:2]) if job is None else job.alpha)
        return torch.stack(images), torch.stack(masks)


def prepare_native(request: FillRequest, recipe: Recipe, factor: int) -> NativeEdit:
    """Cut out what has to be sampled.

    Args:
        request: What to do.
        recipe: Settings of the checkpoint that will sample.
        factor: Pixels per latent and side of the VAE; 8 for FLUX.

    Raises:
        ValueError: All masks are empty, the crops differ in size, or a setting is for our sampler
            only.
    """
    if request.config.denoise != 1.0:
        raise ValueError(
            f"denoise is {request.config.denoise}, but a native sampler has its own; leave it at "
            "1 and set denoise there"
        )
    if request.config.preserve_unmasked:
        raise ValueError(
            "preserve_unmasked is on, but that is a matter of the sampler, which is not ours here; "
            "turn it off"
        )
    # Crops of one size.
    settings = resolve_settings(request.config, recipe)
    multiple = 2 * factor
    jobs = make_jobs(request, _Target(recipe=recipe, multiple=multiple), settings)
    sizes = {job.padded for job in jobs if job is not None}
    if not sizes:
        raise ValueError("mask is empty; paint the area to repaint")
    if len(sizes) > 1:
        names = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ValueError(
            f"the crops of these images have different sizes ({names}), but one latent has one; "
            "give one image at a time, or one mask for all"
        )
    ((width, height),) = sizes
    return NativeEdit(
        request=request,
        settings=settings,
        recipe=recipe,
        jobs=tuple(jobs),
        num_tokens=width * height // multiple**2,
    )
