"""What goes into a run and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .config import FillConfig
from .image.geometry import Extension, check_size
from .image.mask import MIN_PEAK
from .task import TASKS, Task, text_prompt

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FillRequest:
    """One edit of one or more images.

    Everything a user can get wrong is refused here, before any model is loaded (ValueError).

    Example: ``FillRequest(task=Task.FILL, image=image, mask=mask, prompt='a red kite')``.
    """

    task: Task
    image: torch.Tensor
    """``[B, H, W, 3]``, floating point, 0..1."""
    mask: torch.Tensor | None = None
    """``[B, H, W]`` or ``[H, W]``, 1 = repaint; B may be 1 or the image's. For extend: where the
    source already stands on its canvas; else ``extension``."""
    prompt: str = ""
    """fill, extend: what to paint. text: how the letters look. remove: not used."""
    text: str = ""
    """text only: what to write, one line of the image per line."""
    extension: Extension | None = None
    """extend only: new pixels per side."""
    seed: int = 0
    """Candidate n of image b is drawn from ``seed + b * num_candidates + n``; with ``same_seed`` of
    the config from ``seed + n``."""
    config: FillConfig = field(default_factory=FillConfig)
    stitch_mask: torch.Tensor | None = None
    """What is pasted back, if not what the model repaints; shaped like ``mask``."""
    context_mask: torch.Tensor | None = None
    """What the crop has to show beside the mask; shaped like ``mask``; all 0: nothing more."""

    def __post_init__(self) -> None:
        """Validate the inputs and that they fit together."""
        context = self.context_mask
        if context is not None and context.numel() and context.max() < MIN_PEAK:
            object.__setattr__(self, "context_mask", None)
        check_image("image", self.image)
        check_size(self.image.shape[2], self.image.shape[1])
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed is {self.seed}, but 0 to 2**64 - 1 is expected")
        self._check_area()
        for name in ("stitch_mask", "context_mask"):
            if getattr(self, name) is not None:
                _check_mask(name, getattr(self, name), self.image)
        self.full_prompt()

    def _check_area(self) -> None:
        """Check that exactly one input gives the area to repaint."""
        if self.extension is not None:
            if self.task is not Task.EXTEND or self.mask is not None:
                raise ValueError(
                    "pixels per side belong to extend, and replace a mask there; give one"
                )
            self.extension.canvas(self.image.shape[2], self.image.shape[1])
            return
        if self.task is Task.EXTEND and self.mask is None:
            raise ValueError("extend needs the pixels to add per side, or an aspect")
        _check_mask("mask", self.mask, self.image, self.config.skip_empty_masks)
        if self.task in (Task.REMOVE, Task.EXTEND):
            _check_surroundings(self.task, self.mask)

    @property
    def num_images(self) -> int:
        """Images to edit: the larger of the image batch and the mask batch."""
        masks = map(self.mask_batch, ("mask", "stitch_mask", "context_mask"))
        return max([self.image.shape[0], *(len(m) for m in masks if m is not None)])

    def mask_batch(self, name: str) -> torch.Tensor | None:
        """Return ``mask``, ``stitch_mask`` or ``context_mask`` as ``[B, H, W]``; None: not given.

        With ``merge_masks`` of the config, several masks of one image are one.
        """
        mask: torch.Tensor | None = getattr(self, name)
        if mask is None:
            return None
        mask = mask.reshape(-1, *mask.shape[-2:])
        is_merged = self.config.merge_masks and self.image.shape[0] == 1
        return mask.amax(0, keepdim=True) if is_merged else mask

    def candidate_seed(self, image: int, candidate: int) -> int:
        """Return the seed of one result."""
        first = 0 if self.config.same_seed else image * self.config.num_candidates
        return (self.seed + first + candidate) % (MAX_SEED + 1)

    def full_prompt(self) -> str:
        """Return the text the model gets; ValueError if the task needs one and there is none."""
        return full_prompt(self.task, self.prompt, self.text)


def full_prompt(task: Task, prompt: str, text: str = "") -> str:
    """Return the text the model gets; ValueError if the task needs one and there is none.

    Example: ``full_prompt(Task.FILL, " a red circle ") == "a red circle"``.
    """
    spec = TASKS[task]
    if task is Task.TEXT:
        return text_prompt(text, prompt)
    if prompt.strip() and spec.takes_prompt:
        return prompt.strip()
    if spec.fixed_prompt is None:
        raise ValueError(f"prompt is empty; say what to paint (task {task.value})")
    return spec.fixed_prompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FillResult:
    """The images of a run, in order. Example: ``run_fill(request, models, host).image``."""

    image: torch.Tensor
    """``[B * num_candidates, H, W, 3]``, float32, 0..1, on the CPU."""
    mask: torch.Tensor
    """``[B * num_candidates, H, W]``, float32: how much of each pixel is new; 0 = untouched."""
    seeds: tuple[int, ...]
    """The seed of every image."""
    notes: tuple[str, ...]
    """What the user should know: deviations from the recipe, truncated prompts, empty masks."""
    seconds: dict[str, float]
    """Wall-clock time per stage: ``text``, ``encode``, ``sample``, ``decode``, ``stitch``."""


def check_image(name: str, image: torch.Tensor) -> None:
    """Raise ValueError unless this is a batch of finite RGB images ``[B, H, W, 3]``; names it.

    Example: ``check_image("image_a", torch.zeros(64, 64, 3))`` raises.
    """
    if image.ndim != 4:
        raise ValueError(
            f"{name} has shape {list(image.shape)}, but [batch, height, width, 3] is expected"
        )
    batch, height, width, channels = image.shape
    if channels != 3:
        kind = {1: "1 channel (greyscale)", 4: "4 channels (RGBA)"}.get(
            channels, f"{channels} channels"
        )
        raise ValueError(f"{name} has {kind}, but 3 (RGB) are expected; convert it to RGB first")
    if batch == 0:
        raise ValueError(f"{name} is an empty batch; connect at least one image")
    if not height * width:
        raise ValueError(f"{name} is {width}x{height} pixels, so there is nothing in it")
    if not image.dtype.is_floating_point:
        raise ValueError(
            f"{name} has data type {image.dtype}, but floating point in 0..1 is expected"
        )
    _check_finite(name, image)


def check_mask_tensor(name: str, mask: torch.Tensor) -> None:
    """Raise ValueError unless this is ``[B, H, W]`` or ``[H, W]`` of finite numbers; names it.

    Example: ``check_mask_tensor("mask", torch.zeros(64))`` raises.
    """
    if mask.ndim not in (2, 3):
        raise ValueError(
            f"{name} has shape {list(mask.shape)}, but [batch, height, width] is expected"
        )
    if not mask.dtype.is_floating_point and mask.dtype is not torch.bool:
        raise ValueError(
            f"{name} has data type {mask.dtype}, but floating point in 0..1 is expected"
        )
    if mask.numel():
        _check_finite(name, mask)


def _check_mask(
    name: str, mask: torch.Tensor | None, image: torch.Tensor, may_be_empty: bool = False
) -> None:
    if mask is None:
        raise ValueError(f"{name} is missing; paint the area to repaint, 1 = repaint")
    check_mask_tensor(name, mask)
    # LoadImage gives a 64x64 mask of zeros for an image without alpha: that is "nothing painted".
    peak = float(mask.max()) if mask.numel() else 0.0
    is_empty = peak < MIN_PEAK
    if is_empty and not may_be_empty:
        highest = f" (its highest value is {peak:.2g})" if peak > 0 else ""
        raise ValueError(
            f"{name} is empty{highest}; paint the area to repaint (for example in the mask editor)"
        )
    _, height, width, _ = image.shape
    if not is_empty and tuple(mask.shape[-2:]) != (height, width):
        raise ValueError(
            f"{name} is {mask.shape[-1]}x{mask.shape[-2]} pixels but image is {width}x{height} "
            "pixels; make the mask from this image"
        )
    masks = mask.shape[0] if mask.ndim == 3 else 1
    if masks != image.shape[0] and 1 not in (masks, image.shape[0]):
        raise ValueError(
            f"{name} has {masks} masks but image has {image.shape[0]} images; give one for all "
            "or one for each"
        )


def _check_finite(name: str, values: torch.Tensor) -> None:
    ends = torch.stack(torch.aminmax(values))  # `isfinite` of all takes the memory twice
    if not torch.isfinite(ends).all():
        raise ValueError(f"{name} contains NaN or infinite values; look at the node that made it")


def _check_surroundings(task: Task, mask: torch.Tensor | None) -> None:
    if mask is not None and (mask.reshape(-1, *mask.shape[-2:]) >= 0.5).flatten(1).all(1).any():
        raise ValueError(
            f"mask covers the whole image, but {task.value} continues what is around the mask; "
            "paint only a part"
        )
