"""Image files as people have them: read with their masks, written with what they carried.

An image's mask is the file ``<name>_mask.*`` beside it or ``masks/<name>.*``, white where to
repaint, or else what is erased (transparent) in the image. A text file ``<name>.txt`` is what to
paint. EXIF and XMP data, colour profile, comments and texts are kept, but images are turned upright
and the data say so.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from .image_file import ENDS as ENDS
from .image_file import open_image, register_heif, unread_images
from .json_text import read_text
from .metadata import read_metadata, saving_options
from .pixels import to_mask, to_rgb
from .writing import write_image

log = logging.getLogger("onereward.fill")

MASK_END = "_mask"
MASK_FOLDER = "masks"
_COMPUTED_MODES = ("CMYK", "LAB", "YCbCr", "HSV")
"""Modes whose colours are converted by their profile; the others just spell RGB differently."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Photo:
    """An image from a file. Example: ``read_photo(Path('beach.jpg')).pixels.shape``."""

    path: Path
    pixels: torch.Tensor
    """``[H, W, 3]``, float32, 0..1, in the colours of its profile."""
    mask: torch.Tensor | None
    """``[H, W]``, float32, 1 = repaint; None: it has none."""
    text: str
    """What the text file beside it says; may be empty."""
    alpha: torch.Tensor | None = field(repr=False)
    """``[H, W]``: transparency that is no mask, because there is another."""
    carried: Mapping[str, Any] = field(repr=False)
    """What else the file held, see :func:`~.metadata.read_metadata`."""


def list_photos(path: Path) -> list[Path]:
    """Return an image itself, or the images of a folder by name, masks left out.

    Raises:
        FileNotFoundError: There is no such file or folder, or no image in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither an image nor a folder")
    files = [file for file in path.iterdir() if file.suffix.lower() in ENDS and file.is_file()]
    images = sorted(file for file in files if not file.stem.endswith(MASK_END))
    if not images:
        unread = [f"; {name}: {advice}" for name, advice in unread_images(path).items()]
        raise FileNotFoundError(f"{path} holds no image ({', '.join(ENDS)}){''.join(unread[:1])}")
    return images


def read_photo(path: Path, mask: Path | None = None) -> Photo:
    """Read an image with its mask, turned upright.

    Args:
        path: The image.
        mask: File of its mask; None: what belongs to it by name, else its transparency.

    Raises:
        FileNotFoundError: The mask that was named is missing.
        ValueError: A file cannot be read, or the mask has another size.
    """
    image = _open(path)
    alpha = None
    if "A" in image.getbands() or "transparency" in image.info:
        alpha = to_tensor(image.convert("RGBA").getchannel("A"))
    file = mask or mask_file(path)
    if file is not None:
        area, transparency = _read_mask(file, path, image.size), alpha
    elif alpha is not None and bool((alpha < 1).any()):
        area, transparency = 1 - alpha, None
    else:
        area, transparency = None, None
    pixels, profile = _to_rgb(image)
    note = path.with_suffix(".txt")
    return Photo(
        path=path,
        pixels=to_tensor(pixels),
        mask=area,
        text=read_text(note, allows_utf16=True).strip() if note.is_file() else "",
        alpha=transparency,
        carried=image.info["carried"] | ({"icc_profile": profile} if profile else {}),
    )


def save_photo(photo: Photo, pixels: torch.Tensor, path: Path) -> None:
    """Write an image with what its source carried, completely or not at all.

    Args:
        photo: The source.
        pixels: ``[H, W, 3]``, 0..1; any size.
        path: Where to; its ending, one of ``ENDS``, decides the format. JPEG, AVIF and HEIC are
            encoded again, the others are exact.
    """
    register_heif(path)
    values = (pixels.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(values)
    kind = Image.registered_extensions()[path.suffix.lower()]
    if photo.alpha is not None and photo.alpha.shape == pixels.shape[:2] and kind != "JPEG":
        image.putalpha(Image.fromarray((photo.alpha * 255).round().to(torch.uint8).numpy()))
    write_image(path, image, kind, **saving_options(photo.carried, kind, image.size))


def _open(path: Path) -> Image.Image:
    with open_image(path) as image:
        turned = ImageOps.exif_transpose(image)
        turned.info["carried"] = read_metadata(image)
        if getattr(image, "n_frames", 1) > 1:
            log.warning("%s: parts beside the image, such as a depth map, are not kept", path.name)
        return turned


def mask_file(path: Path) -> Path | None:
    """Return the file of an image's mask, None if there is none."""
    stems = (path.with_name(path.stem + MASK_END), path.parent / MASK_FOLDER / path.stem)
    files = (Path(f"{stem}{end}") for stem in stems for end in ENDS)
    return next((file for file in files if file.is_file()), None)


def _read_mask(file: Path, path: Path, size: tuple[int, int]) -> torch.Tensor:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; it is to be the mask of {path.name}")
    mask = _open(file)
    if mask.size != size:
        raise ValueError(
            f"the mask {file.name} is {mask.width}x{mask.height} pixels but {path.name} is "
            f"{size[0]}x{size[1]} pixels; make the mask from this image"
        )
    return to_tensor(to_mask(mask))


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Return the image in RGB and the profile that now belongs to its values."""
    profile = image.info.get("icc_profile")
    if profile and image.mode in _COMPUTED_MODES:
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        # A profile that is damaged says nothing about the colours.
        with suppress(OSError, ImageCms.PyCMSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            assert converted is not None, "a new image was asked for"
            return converted, target.tobytes()
    # Bytes 16 to 20 of every profile are its colour space.
    is_rgb = profile is not None and profile[16:20] == b"RGB "
    return to_rgb(image), profile if is_rgb else None


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return ``[H, W, channels]``, or ``[H, W]`` of a single one, float32, 0..1."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
