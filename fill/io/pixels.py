"""Pixels of image files of any mode as RGB, or as a mask: scaled by what the mode can hold."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

_DEEP_MODES = ("I", "F")
"""First letters of the modes with more than 8 bits, which Pillow itself clips to 8."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image in mode RGB; transparency is dropped.

    Example: ``to_rgb(Image.open("16-bit.png"))``.
    """
    return _to_8_bits(image).convert("RGB")


def to_mask(image: Image.Image) -> Image.Image:
    """Return a mask in mode L, 255 = repaint, as people save them.

    Any colour is paint, as bright as its brightest channel; what is transparent is not painted, but
    black strokes on a transparent layer are. A label map of 0 and 1 is a mask, too.

    Example: ``to_mask(Image.open("beach_mask.png"))``.
    """
    if image.mode == "L" or image.mode.startswith("I"):
        values = np.asarray(image)
        if values.max() == 1:
            return Image.fromarray((values * 255).astype(np.uint8))
    grey = _to_8_bits(image)
    if grey.mode == "L":
        return grey
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    red, green, blue, *alphas = image.convert("RGBA" if has_alpha else "RGB").split()
    paint = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    for alpha in alphas:
        layer = ImageChops.multiply(paint, alpha)
        paint = layer if layer.getbbox() else alpha
    return paint


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return an image whose channels have 8 bits; deep modes are of one grey channel."""
    if image.mode[0] not in _DEEP_MODES:
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = float(values.max())
    if image.mode.startswith("I;16"):
        limit = 65535.0
    else:
        # A 32-bit file does not say what white is: the smallest usual range that holds its values.
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        limit = next((limit for limit in usual if highest <= limit), highest)
    return Image.fromarray((values / limit * 255).clip(0, 255).round().astype(np.uint8))
