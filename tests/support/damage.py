"""Image files that cannot be read, each for another reason and with another error of Pillow's."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

_HEADER = 8
"""Bytes before the first chunk of a PNG file; its length, name and content follow."""


def damaged_images() -> dict[str, bytes]:
    """Return the contents of PNG files by what is wrong with them."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, "PNG")
    whole = buffer.getvalue()
    return {
        "nothing": b"",
        "text": b"no image",
        "torn": whole[: len(whole) // 2],
        "short header": whole[:_HEADER] + struct.pack(">I", 5) + whole[_HEADER + 4 :],
        "unknown chunk": _with_two_pieces(whole),
        "far too large": _resized(whole, 60_000),
    }


def _with_two_pieces(whole: bytes) -> bytes:
    """Cut the pixels in two chunks and spoil the second one's name."""
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack(">I", whole[start : start + 4])
    pixels = whole[start + 8 : start + 8 + length]
    first, second = pixels[: length // 2], pixels[length // 2 :]
    return (
        whole[:start]
        + _chunk(b"IDAT", first)
        + _chunk(b"\xd6\x19\xeaI", second)
        + whole[start + 12 + length :]
    )


def _resized(whole: bytes, side: int) -> bytes:
    """Say another size in the header."""
    content = struct.pack(">II", side, side) + whole[_HEADER + 16 : _HEADER + 21]
    return whole[:_HEADER] + _chunk(b"IHDR", content) + whole[_HEADER + 25 :]


def _chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
