"""Opens image files of unknown origin: only usual formats, and no more pixels than can be meant."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .json_text import label_of, shorten

MAX_PIXELS = 100_000_000
"""10,000 x 10,000: as float32 RGB 1.2 GB. A file of a few kB can hold it."""
FORMATS = {
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "JPEG2000"),
    *("AVIF", "HEIF"),
}
"""Those that Pillow, or its plugin for HEIF, decodes itself: others start programs, or hold none.
"""
_DECODERS_RAISE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, Image.DecompressionBombError, struct.error, zlib.error),
)
"""What decoders raise for damaged files."""


@contextmanager
def open_image(path: Path, advice: str = "") -> Iterator[Image.Image]:
    """Open an image file; its pixels are decoded in the block, whose errors are the file's.

    Args:
        path: The file.
        advice: What to do if it cannot be read.

    Raises:
        ValueError: It is missing, no image, of an unusual format, damaged or too large; names it.

    Example: ``with open_image(path) as image: pixels = to_rgb(image)``.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with Image.open(path) as image:
            if image.format not in FORMATS:
                raise ValueError(f"it is a {image.format} file; save it as PNG")
            check_pixels(*image.size)
            yield image
    except _DECODERS_RAISE as error:
        text = f"{label_of(path, 2)} cannot be read as an image ({_reason(error)})"
        raise ValueError(f"{text}; {advice}" if advice else text) from error


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError for an image of no pixels, or of too many."""
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(
            f"it has {width}x{height} pixels, but 1 to {MAX_PIXELS // 1_000_000} million are read; "
            "save it smaller"
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS // 1_000_000} million pixels; save it smaller"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shorten(str(error) or "it is damaged", 120)
