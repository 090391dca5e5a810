"""EXIF data changed in place: what is not touched keeps its bytes, makers' notes and all."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEAD = b"Exif\0\0"
ORIENTATION, WIDTH, HEIGHT = 0x0112, 0xA002, 0xA003
EXIF_FOLDER, GPS_FOLDER = 0x8769, 0x8825
UPRIGHT = 1
_SHORT, _LONG = 3, 4
_FORMATS = {_SHORT: "H", _LONG: "I"}


def make_upright(data: bytes) -> bytes:
    """Return the data of an image that was turned, and whose thumbnail is no longer its own.

    Args:
        data: As in a file, with or without ``Exif`` in front. Damaged data stay as they are.
    """

    def change(folder: _Folder) -> None:
        folder.set({ORIENTATION: UPRIGHT})
        folder.cut()  # the next folder describes the thumbnail

    return _rewrite(data, change)


def with_size(data: bytes, width: int, height: int) -> bytes:
    """Return the data with another size of the image, in pixels, where they give one."""
    sizes = {WIDTH: width, HEIGHT: height}
    return _rewrite(data, lambda folder: [f.set(sizes) for f in folder.inner()])


def _rewrite(data: bytes, change: Callable[[_Folder], object]) -> bytes:
    start = len(HEAD) if data.startswith(HEAD) else 0
    tiff = bytearray(data[start:])
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None:
        return data
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        change(_Folder(tiff, order, first))
    except struct.error:  # an offset beyond the end
        return data
    return data[:start] + bytes(tiff)


@dataclass(frozen=True, slots=True)
class _Folder:
    """One directory of tags; entries are 12 bytes: tag, type, count, value or its offset."""

    tiff: bytearray
    order: str
    start: int

    def _entries(self) -> Iterator[tuple[int, int, int]]:
        """Yield tag, type and the offset of the value."""
        (count,) = struct.unpack_from(self.order + "H", self.tiff, self.start)
        for index in range(count):
            offset = self.start + 2 + 12 * index
            tag, kind, _ = struct.unpack_from(self.order + "HHI", self.tiff, offset)
            yield tag, kind, offset + 8

    def set(self, values: dict[int, int]) -> None:
        """Overwrite whole numbers that are there."""
        for tag, kind, offset in self._entries():
            if tag in values and kind in _FORMATS:
                struct.pack_into(self.order + _FORMATS[kind], self.tiff, offset, values[tag])

    def cut(self) -> None:
        """Make this the last folder."""
        (count,) = struct.unpack_from(self.order + "H", self.tiff, self.start)
        struct.pack_into(self.order + "I", self.tiff, self.start + 2 + 12 * count, 0)

    def inner(self) -> Iterator[_Folder]:
        """Yield the folder of camera data inside this one."""
        for tag, _, offset in self._entries():
            if tag == EXIF_FOLDER:
                (start,) = struct.unpack_from(self.order + "I", self.tiff, offset)
                yield _Folder(self.tiff, self.order, start)
