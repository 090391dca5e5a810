"""Where things are: boxes, crops around a mask, extended canvases, padding. Integers only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import MAX_SIDE

MIN_SIDE = 16
"""Smallest side of an image, in pixels."""
MAX_CROP_ASPECT = 2.0
"""A crop longer than this is widened where the image allows: models are poor at narrow strips."""
NEARLY = 0.8
"""Crops within this factor of the target size are sampled as they are."""
ANCHORS = ("center", "left", "right", "top", "bottom")
"""Where the source sits on an extended canvas."""


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Pixels ``left <= x < right``, ``top <= y < bottom``. Example: ``Box(0, 0, 64, 64)``."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def rows(self) -> slice:
        """The rows, to index ``[H, W]`` with."""
        return slice(self.top, self.bottom)

    @property
    def cols(self) -> slice:
        """The columns."""
        return slice(self.left, self.right)

    def widened(self, pixels: int, width: int, height: int) -> Box:
        """Return the box with ``pixels`` more on each side, inside an image of that size."""
        return Box(
            max(self.left - pixels, 0),
            max(self.top - pixels, 0),
            min(self.right + pixels, width),
            min(self.bottom + pixels, height),
        )

    def moved(self, right: int, down: int) -> Box:
        """Return the box elsewhere."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)

    def union(self, box: Box) -> Box:
        """Return the smallest box that holds both."""
        return Box(
            min(self.left, box.left),
            min(self.top, box.top),
            max(self.right, box.right),
            max(self.bottom, box.bottom),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """New pixels on each side. Example: ``Extension(left=256).canvas(512, 512) == (768, 512)``."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        """Refuse negative sizes and an extension by nothing."""
        for side in ("left", "top", "right", "bottom"):
            if getattr(self, side) < 0:
                raise ValueError(
                    f"{side} is {getattr(self, side)}, but 0 or more pixels are expected; crop the "
                    "image with another node first"
                )
        if not (self.left or self.top or self.right or self.bottom):
            raise ValueError(
                "nothing to extend: all four sides are 0; give pixels for a side or choose an "
                "aspect"
            )

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the extended image; ValueError if it would be too large."""
        new = (width + self.left + self.right, height + self.top + self.bottom)
        check_size(*new, what="the extended image")
        return new


def check_size(width: int, height: int, what: str = "image") -> None:
    """Raise ValueError if a side is under 16 pixels or over 16384 pixels."""
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise ValueError(
            f"{what} is {width}x{height} pixels, but sides of {MIN_SIDE} to {MAX_SIDE} pixels are "
            "expected; resize it first"
        )


def extension_for_aspect(width: int, height: int, aspect: str, anchor: str) -> Extension:
    """Return the smallest extension that gives an image the aspect ratio.

    Args:
        width: Width of the source in pixels.
        height: Height of the source in pixels.
        aspect: ``W:H``, for example ``16:9``.
        anchor: Where the source sits on the new canvas, one of :data:`ANCHORS`.

    Raises:
        ValueError: Malformed aspect, unknown anchor, or the image has that aspect already.
    """
    ratio = check_aspect(aspect, anchor)
    add_x = max(round(height * ratio) - width, 0)
    add_y = max(round(width / ratio) - height, 0)
    if not add_x and not add_y:
        raise ValueError(
            f"the image is {width}x{height} pixels and has the aspect {aspect} already"
        )
    left = {"left": 0, "right": add_x}.get(anchor, add_x // 2)
    top = {"top": 0, "bottom": add_y}.get(anchor, add_y // 2)
    return Extension(left=left, top=top, right=add_x - left, bottom=add_y - top)


def check_aspect(aspect: str, anchor: str) -> float:
    """Return width / height of an aspect; ValueError if it or the anchor is none.

    Example: ``check_aspect("5:4", "left") == 1.25``.
    """
    if anchor not in ANCHORS:
        raise ValueError(f"anchor is {anchor!r}; choose one of: {', '.join(ANCHORS)}")
    parts = aspect.split(":")
    try:
        across, down = (float(part) for part in parts)
        ratio = across / down
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0.05 <= ratio <= 20.0:
        raise ValueError(f"aspect is {aspect!r}, but W:H such as 16:9 is expected")
    return ratio


def context_box(mask: Box, image: tuple[int, int], factor: float, min_side: int) -> Box:
    """Return the crop that shows a mask with its surroundings.

    Args:
        mask: Bounding box of everything the crop must show.
        image: Width and height of the image in pixels.
        factor: Side of the crop in sides of the mask's box, at least 1.
        min_side: Crops are at least this large where the image allows, in pixels.
    """
    width, height = image
    want_x = max(mask.width * factor, min_side)
    want_y = max(mask.height * factor, min_side)
    want_x = max(want_x, want_y / MAX_CROP_ASPECT)
    want_y = max(want_y, want_x / MAX_CROP_ASPECT)
    left, right = _span(mask.left, mask.right, math.ceil(want_x), width)
    top, bottom = _span(mask.top, mask.bottom, math.ceil(want_y), height)
    return Box(left, top, right, bottom)


def _span(low: int, high: int, want: int, limit: int) -> tuple[int, int]:
    """Centre ``want`` pixels on ``low..high`` and shift them inside ``0..limit``."""
    want = min(max(want, high - low), limit)
    start = min(max((low + high - want) // 2, 0), limit - want)
    return start, start + want


def content_size(width: int, height: int, target: int, max_upscale: float) -> tuple[int, int]:
    """Return the size to which a crop is resized before it is padded and sampled.

    The area comes as near to ``target`` squared as ``max_upscale`` allows. Crops that are nearly
    right stay as they are: resampling by a few per cent costs detail and gains nothing.

    Args:
        width: Width of the crop in pixels.
        height: Height of the crop in pixels.
        target: Side of a square with the best number of pixels.
        max_upscale: Largest enlargement, at least 1.
    """
    scale = min(target / math.sqrt(width * height), max(max_upscale, 1.0))
    if NEARLY <= scale <= 1 / NEARLY:
        return width, height
    return max(round(width * scale), 1), max(round(height * scale), 1)


def padding(width: int, height: int, multiple: int) -> tuple[int, int]:
    """Return the pixels to add on the right and at the bottom to reach the model's multiple."""
    return -width % multiple, -height % multiple
