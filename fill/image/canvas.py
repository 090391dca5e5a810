"""From a request to one job per image: canvas, masks, crop and size; needs no weights."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F

from ..recipe import Recipe, Settings
from ..request import FillRequest
from ..task import TASKS, Task
from .geometry import Box, Extension, content_size, context_box, padding
from .mask import NEAR, bounding_box, clean_mask, feather, fill_holes, grow, without_traces

REFERENCE_SIDE = 1024
"""Task defaults for grow and feather are pixels of a context this large."""
_MASKS = ("mask", "repaint", "alpha")
"""Of a job, over its window."""


class Sizes(Protocol):
    """What a model says about image sizes. Example: :class:`~..models.FillModels`."""

    @property
    def recipe(self) -> Recipe:
        """The settings it was trained for."""
        ...

    @property
    def multiple(self) -> int:
        """Sides of a sampled image are multiples of this."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One image to edit. Example: ``make_jobs(request, models, settings)[0].model_input()``."""

    canvas: torch.Tensor
    """``[H, W, 3]``, 0..1: the source, extended for extend. Read-only."""
    window: Box
    """The part of the canvas that the three masks cover: all of it, or little more than the crop,
    as a large canvas with many crops would take gigabytes."""
    mask: torch.Tensor
    """``[h, w]`` of the window, 0..1: what the user painted. Read-only."""
    repaint: torch.Tensor
    """``[h, w]`` of the window, bool: what the model repaints."""
    alpha: torch.Tensor
    """``[h, w]`` of the window, 0..1: how much of each pixel is replaced; 0 beyond it."""
    box: Box
    """The crop that is sampled, inside the window."""
    content: tuple[int, int]
    """Width and height the crop is resized to."""
    padded: tuple[int, int]
    """Width and height after padding to the model's multiple."""
    notes: tuple[str, ...] = ()
    """What the user should know of the mask and the crop, one sentence each."""

    def crop(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the part of one of the three masks that the crop shows."""
        box = self.box.moved(-self.window.left, -self.window.top)
        return mask[box.rows, box.cols]

    def windowed(self) -> Job:
        """Return the same job with copies of the masks that cover the crop alone."""
        masks = {name: self.crop(getattr(self, name)).clone() for name in _MASKS}
        return replace(self, window=self.box, **masks)

    def model_input(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pixels ``[3, h, w]`` in -1..1 and binary mask ``[h, w]`` at the sampled size."""
        crop = self.canvas[self.box.rows, self.box.cols].permute(2, 0, 1) * 2 - 1
        mask = self.crop(self.repaint).to(torch.float32)
        pixels = resize(crop, *self.content).clamp(-1, 1)
        if self.content != (self.box.width, self.box.height):
            # Whatever touches the mask must be repainted, so no averaging here.
            mask = F.adaptive_max_pool2d(mask[None], (self.content[1], self.content[0]))[0]
        right, bottom = self.padded[0] - self.content[0], self.padded[1] - self.content[1]
        pixels = F.pad(pixels[None], (0, right, 0, bottom), mode="replicate")[0]
        return pixels, F.pad(mask, (0, right, 0, bottom))

    def model_alpha(self) -> torch.Tensor:
        """Return alpha ``[h, w]`` in 0..1 at the sampled size, padding left out."""
        alpha = self.crop(self.alpha)[None]
        return resize(alpha, *self.content).clamp(0, 1)[0]

    def to_crop(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bring decoded pixels ``[3, h, w]`` in -1..1 back to the crop: ``[H', W', 3]`` in 0..1."""
        content = pixels[:, : self.content[1], : self.content[0]]
        crop = resize(content, self.box.width, self.box.height)
        return (crop / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)


def resize(pixels: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resize ``[C, H, W]`` (bicubic, antialiased); the same size returns the input untouched."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(
        pixels[None], (height, width), mode="bicubic", antialias=True, align_corners=False
    )[0]


def make_jobs(request: FillRequest, models: Sizes, settings: Settings) -> list[Job | None]:
    """Return a job per image; None for an image whose mask is empty (it stays as it is)."""
    num = request.num_images
    images = request.image.detach().to("cpu", torch.float32).expand(num, -1, -1, -1)
    return [_make_job(request, models, settings, images[i], i) for i in range(num)]


def _make_job(
    request: FillRequest, models: Sizes, settings: Settings, image: torch.Tensor, index: int
) -> Job | None:
    canvas = _extend(image, request)
    # What is repainted, pasted and shown.
    mask = _mask_of(request, "mask", index)
    assert mask is not None, "a request without a mask has new pixels"
    repaint, alpha, notes = _shape_masks(request, settings, mask)
    if not repaint.any():
        return None
    stitch = _mask_of(request, "stitch_mask", index)
    if stitch is not None and (stitch >= NEAR).any():
        alpha = without_traces(stitch)
    context = _mask_of(request, "context_mask", index)
    areas = [repaint, alpha]
    if context is not None:
        # A faint brush counts as well as a full one; haze below it does not.
        areas.append((context >= NEAR) & (context >= min(0.5, float(context.max()) / 2)))
    boxes = [box for box in map(bounding_box, areas) if box is not None]
    box, content, padded = crop_sizes(
        functools.reduce(Box.union, boxes), request, models, settings, canvas
    )
    return Job(
        canvas=canvas,
        window=Box(0, 0, canvas.shape[1], canvas.shape[0]),
        mask=mask,
        repaint=repaint,
        alpha=alpha,
        box=box,
        content=content,
        padded=padded,
        notes=notes,
    )


def crop_sizes(
    area: Box, request: FillRequest, models: Sizes, settings: Settings, canvas: torch.Tensor
) -> tuple[Box, tuple[int, int], tuple[int, int]]:
    """Return the crop for an area, the size it is resized to, and that size padded.

    Args:
        area: What the crop has to show.
        request: Its config says how much context is added.
        models: The multiple and the largest enlargement.
        settings: The size the model works at.
        canvas: ``[H, W, 3]``, which no crop exceeds.
    """
    height, width = canvas.shape[:2]
    target, upscale = settings.target_size, models.recipe.max_upscale
    if request.config.crop_to_context:
        min_side = math.ceil(target / upscale)
        box = context_box(area, (width, height), request.config.context_factor, min_side)
        content = content_size(box.width, box.height, target, upscale)
    else:
        box, content = Box(0, 0, width, height), (width, height)
    right, bottom = padding(*content, models.multiple)
    return box, content, (content[0] + right, content[1] + bottom)


def _mask_of(request: FillRequest, name: str, index: int) -> torch.Tensor | None:
    """Return one image's mask ``[H, W]`` of the canvas, 0..1, None if there is none."""
    masks = request.mask_batch(name)
    if masks is None:
        if name != "mask":
            return None
        masks = torch.zeros(1, *request.image.shape[1:3])
    mask = masks[index if masks.shape[0] > 1 else 0].detach().to("cpu", torch.float32)
    if request.extension is None:
        return mask
    # New pixels have nothing to keep: they are always repainted and always pasted.
    return F.pad(mask, _sides(request.extension), value=0.0 if name == "context_mask" else 1.0)


def _shape_masks(
    request: FillRequest, settings: Settings, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Return what the model repaints (binary), what is pasted (alpha), and notes for the user.

    A soft border that the user painted survives: alpha is never below its values. Only a window
    around the mask is computed: the whole of a large image would take seconds and gigabytes.
    """
    height, width = mask.shape
    repaint, alpha = torch.zeros(mask.shape, dtype=torch.bool), torch.zeros(mask.shape)
    area = bounding_box(mask >= NEAR)
    if area is None:
        return repaint, alpha, ()
    clean = clean_mask(mask[area.rows, area.cols], (height, width))
    solid_box = bounding_box(clean.solid)
    if solid_box is None:
        return repaint, alpha, ()
    grow_px, feather_px = border_widths(request, settings, solid_box, mask.numel())
    window = area.widened(grow_px + 1, width, height)
    pad = (
        *(area.left - window.left, window.right - area.right),
        *(area.top - window.top, window.bottom - area.bottom),
    )
    solid, soft = F.pad(clean.solid, pad), F.pad(clean.soft, pad)
    if request.config.fill_holes and request.task is not Task.EXTEND:
        solid = fill_holes(solid)
    pasted = torch.maximum(feather(grow(solid, grow_px), feather_px), soft)
    alpha[window.rows, window.cols] = pasted
    repaint[window.rows, window.cols] = pasted > 0
    return repaint, alpha, clean.notes


def border_widths(
    request: FillRequest, settings: Settings, box: Box, num_pixels: int
) -> tuple[int, int]:
    """Return grow and feather in pixels of the image.

    The tasks' defaults are pixels of a context 1024 pixels across; they scale with what the model
    will see, so that a thumbnail does not lose its mask in a border made for a photograph.

    Args:
        request: Task and config.
        settings: The size the model works at.
        box: Bounding box of the painted area.
        num_pixels: Size of the whole canvas, which no context exceeds.
    """
    spec, config = TASKS[request.task], request.config
    side = max(math.sqrt(box.width * box.height) * config.context_factor, settings.target_size)
    scale = min(side, math.sqrt(num_pixels)) / REFERENCE_SIDE
    grow_px = round(spec.grow * scale) if config.grow < 0 else config.grow
    feather_px = round(spec.feather * scale) if config.feather < 0 else config.feather
    if request.task is Task.EXTEND:
        # Beyond the overlap there is no old image to fade into.
        feather_px = min(feather_px, grow_px)
    return grow_px, feather_px


def _extend(image: torch.Tensor, request: FillRequest) -> torch.Tensor:
    """Return the canvas; new pixels repeat the source's border, so no line shows there."""
    if request.extension is None:
        return image
    pixels = image.permute(2, 0, 1)[None]
    return F.pad(pixels, _sides(request.extension), mode="replicate")[0].permute(1, 2, 0)


def _sides(extension: Extension) -> tuple[int, int, int, int]:
    return extension.left, extension.right, extension.top, extension.bottom
