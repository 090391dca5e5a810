"""Opens image files of unknown origin: usual formats, one frame, no more pixels than can be meant.

AVIF needs Pillow 11.3 or newer, HEIC (photos of telephones) the package pillow-heif.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
AVIF_ENDS, HEIF_ENDS = (".avif",), (".heic", ".heif")
HAS_AVIF, HAS_HEIF = find_spec("PIL._avif") is not None, find_spec("pillow_heif") is not None
ENDS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp")
"""Of images in a folder."""
ENDS += (AVIF_ENDS if HAS_AVIF else ()) + (HEIF_ENDS if HAS_HEIF else ())
OTHER_ENDS = {
    **dict.fromkeys(AVIF_ENDS, "reading it needs Pillow 11.3: pip install -U pillow"),
    **dict.fromkeys(HEIF_ENDS, "reading it needs a package: pip install pillow-heif"),
    **dict.fromkeys((".gif", ".apng"), "save it as PNG, frame by frame if it moves"),
    **dict.fromkeys((".psd", ".xcf", ".svg", ".tga", ".jp2", ".jxl", ".exr"), "save it as PNG"),
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
        "develop it into a JPEG or TIFF file",
    ),
}
"""Of other images, with what to do; only those that are not in ``ENDS`` count."""
_PARTS = ("MPO", "HEIF")
"""Formats whose further images are parts of the first one: a gain map, a depth map, a small copy.
"""
_SUBFILE_TYPE, _IS_SMALLER = 254, 1
"""TIFF's tag that says what a page is, and its bit for a small copy of another."""
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
        ValueError: It is missing, no image, of an unusual format, damaged or too large, or has
            several frames or pages; names it.

    Example: ``with open_image(path) as image: pixels = to_rgb(image)``.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        register_heif(path)
        with warnings.catch_warnings():
            # Pillow's own bound only warns; the one below refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as image:
            if image.format not in FORMATS:
                raise ValueError(f"it is a {image.format} file; save it as PNG")
            check_pixels(*image.size)
            if (num := _num_frames(image)) > 1:
                raise ValueError(f"it holds {num} frames or pages; save each as a file of its own")
            yield image
    except _DECODERS_RAISE as error:
        text = f"{label_of(path, 2)} cannot be read as an image ({_reason(error)})"
        raise ValueError(f"{text}; {advice}" if advice else text) from error


def unread_images(folder: Path) -> dict[str, str]:
    """Return the images of a folder that cannot be read here, by name, with what to do.

    Example: ``unread_images(folder) == {"a.gif": "save it as PNG, frame by frame if it moves"}``.
    """
    ends = {end: advice for end, advice in OTHER_ENDS.items() if end not in ENDS}
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ends)
    return {file.name: ends[file.suffix.lower()] for file in files if file.is_file()}


def register_heif(path: Path) -> None:
    """Teach Pillow to read and write HEIC files, if this is one and the package is there."""
    if HAS_HEIF and path.suffix.lower() in HEIF_ENDS:
        import pillow_heif

        pillow_heif.register_heif_opener()


def _num_frames(image: Image.Image) -> int:
    """Return how many images of equal rank a file holds."""
    num = 1 if image.format in _PARTS else getattr(image, "n_frames", 1)
    if num == 1 or image.format != "TIFF":
        return num
    is_page = []
    for index in range(num):
        image.seek(index)
        tags: Any = image.getexif()
        is_page.append(not int(tags.get(_SUBFILE_TYPE, 0)) & _IS_SMALLER)
    image.seek(0)
    return sum(is_page)


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
