"""What an image file says beside its pixels, from one file to another, of any format that takes it.

EXIF and XMP data, IPTC data (captions of the press), resolution, comment, and the texts of a PNG.
Small pictures of the old image among them are left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo, iTXt

from .exif import EXIF_FOLDER, GPS_FOLDER, make_upright, with_size

_SAVING: Mapping[str, Mapping[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "HEIF": {"quality": 95, "chroma": 444},
}
_FOLDERS = (EXIF_FOLDER, GPS_FOLDER)
_PIXEL_TAGS = {*range(254, 267), *range(273, 285), *range(286, 298), *range(317, 340), 347, 34675}
_XMP_TEXT, _XMP_TAG = "XML:com.adobe.xmp", 700
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")
_ELSEWHERE = (_XMP_TEXT, "Raw profile type")
"""Begin the names of PNG texts that Pillow hands out as XMP, EXIF data or profile as well."""
_IPTC = 0x0404
_IPTC_SEGMENT = b"\xff\xed"
_MAX_SEGMENT = 65533


def read_metadata(image: Image.Image) -> dict[str, Any]:
    """Return what an open file says, whose pixels have been read and are turned upright.

    Returns:
        ``exif``, ``xmp`` and ``iptc`` as bytes, ``comment``, ``dpi``, and ``texts`` by their names;
        only what is there. The colour profile belongs to the pixels and is not among them.

    Example: ``read_metadata(image)["comment"]``.
    """
    texts = {
        name: text
        for name, text in getattr(image, "text", {}).items()
        if not name.startswith(_ELSEWHERE)
    }
    photoshop = image.info.get("photoshop")
    values = {
        # Pillow's own turning writes all of it anew, and loses letters beyond ASCII.
        "exif": make_upright(image.info.get("exif") or _tiff_exif(image)),
        "xmp": _XMP_ORIENTATION.sub(rb"\g<1>1", image.info.get("xmp") or b""),
        "iptc": photoshop.get(_IPTC) if isinstance(photoshop, dict) else None,
        "comment": image.info.get("comment"),
        "dpi": image.info.get("dpi"),
        "texts": texts,
    }
    return {name: value for name, value in values.items() if value}


def saving_options(carried: Mapping[str, Any], kind: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return the options with which Pillow writes a format so that it says the same.

    Args:
        carried: From :func:`read_metadata`, with ``icc_profile`` if there is one.
        kind: Pillow's name of the format.
        size: Width and height of the new image.
    """
    options = dict(_SAVING.get(kind, {}))
    options |= {name: carried[name] for name in ("icc_profile", "dpi") if name in carried}
    if "exif" in carried:
        options["exif"] = with_size(carried["exif"], *size)
    if kind == "PNG":
        options["pnginfo"] = _png_texts(carried)
        return options
    if "xmp" in carried and kind == "TIFF":
        exif = Image.Exif()
        exif.load(options.get("exif", b""))
        exif[_XMP_TAG] = carried["xmp"]
        options["exif"] = exif.tobytes()
    elif "xmp" in carried:
        options["xmp"] = carried["xmp"]
    if kind == "JPEG":
        if "comment" in carried:
            options["comment"] = carried["comment"]
        if "iptc" in carried:
            options["extra"] = _iptc_segment(carried["iptc"])
    return options


def _png_texts(carried: Mapping[str, Any]) -> PngInfo:
    info = PngInfo()
    texts = dict(carried.get("texts", {}))
    if "comment" in carried:
        comment = carried["comment"]
        is_bytes = isinstance(comment, bytes)
        texts.setdefault("Comment", comment.decode("utf-8", "replace") if is_bytes else comment)
    for name, text in texts.items():
        if isinstance(text, iTXt):
            info.add_itxt(name, text, text.lang or "", text.tkey or "")
        else:
            info.add_text(name, text)
    if "xmp" in carried:
        info.add_itxt(_XMP_TEXT, carried["xmp"].decode("utf-8", "replace"))
    return info


def _iptc_segment(data: bytes) -> bytes:
    """Return a JPEG segment with IPTC data alone; nothing if they are too long for one."""
    resource = struct.pack(">4sHHI", b"8BIM", _IPTC, 0, len(data)) + data + b"\0" * (len(data) % 2)
    segment = b"Photoshop 3.0\0" + resource
    if len(segment) > _MAX_SEGMENT:
        return b""
    return _IPTC_SEGMENT + struct.pack(">H", len(segment) + 2) + segment


def _tiff_exif(image: Image.Image) -> bytes:
    """Return the data of a TIFF, which has them among the tags that describe its pixels."""
    exif = image.getexif()
    tags = Image.Exif()
    for tag in set(exif) - _PIXEL_TAGS - {*_FOLDERS, _XMP_TAG}:
        tags[tag] = exif[tag]
    inner = {tag: values for tag in _FOLDERS if (values := exif.get_ifd(tag))}
    for tag, values in inner.items():
        tags.get_ifd(tag).update(values)
    return tags.tobytes() if tags or inner else b""
