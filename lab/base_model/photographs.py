"""Openly licensed photographs from PyPI and Debian packages, cut into 64x64 crops.

`PHOTOGRAPHS` is the whole list, with the licence of each image and whether it is held out.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..world.canvas import SIZE

_LONGEST_SIDE = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """Where an image comes from.

    Example: ``[p.file for p in PHOTOGRAPHS if p.is_held_out]``.
    """

    file: str
    """Its file name."""
    package: str
    """The PyPI or Debian package that carries it."""
    licence: str
    """Its licence, as the package states it."""
    is_held_out: bool = False
    """Whether it is kept for evaluation."""


def _photos(
    package: str, licence: str, *files: str, held_out: tuple[str, ...] = ()
) -> list[Photograph]:
    return [
        Photograph(file=f, package=package, licence=licence, is_held_out=f in held_out)
        for f in files
    ]


PHOTOGRAPHS = (
    *_photos(
        "scikit-image (PyPI)",
        "public domain or CC0, see the package's data/README",
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "brick.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        held_out=("coffee.png", "grass.png"),
    ),
    *_photos(
        "mate-backgrounds (Debian)",
        "GPL-2+",
        "Aqua.jpg",
        "Blinds.jpg",
        "Dune.jpg",
        "FreshFlower.jpg",
        "Garden.jpg",
        "GreenMeadow.jpg",
        "LadyBird.jpg",
        "RainDrops.jpg",
        "Storm.jpg",
        "TwoWings.jpg",
        "Wood.jpg",
        "YellowFlower.jpg",
        held_out=("Garden.jpg", "Storm.jpg", "Wood.jpg"),
    ),
)


def _package_data() -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    return [Path(spec.origin).parent / "data"] if spec and spec.origin else []


def find_photographs(folders: tuple[str, ...], is_held_out: bool) -> list[Path]:
    """Return the files of the list that exist, in its order.

    Raises:
        FileNotFoundError: If an image of the list is in none of the folders.
    """
    roots = [Path(folder) for folder in folders] + _package_data()
    paths, missing = [], []
    for photo in PHOTOGRAPHS:
        if photo.is_held_out == is_held_out:
            hits = [hit for root in roots for hit in sorted(root.rglob(photo.file))]
            paths += hits[:1]
            missing += [] if hits else [f"{photo.file} of {photo.package}"]
    if missing:
        raise FileNotFoundError(
            f"photographs are missing ({missing[0]} and {len(missing) - 1} more); unpack the "
            "packages and name their folder in photo_folders, or set photo_share to 0 to train "
            "without photographs"
        )
    return paths


def _read_image(path: Path) -> Tensor:
    from PIL import Image

    with Image.open(path) as opened:
        opened.draft("RGB", (2 * _LONGEST_SIDE, 2 * _LONGEST_SIDE))
        image = opened.convert("RGB")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BOX)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def _crop(image: Tensor, generator: torch.Generator) -> Tensor:
    luck = torch.rand(4, generator=generator).tolist()
    height, width = image.shape[1:]
    side = int(SIZE * (min(height, width) / SIZE) ** luck[0])
    top, left = int(luck[1] * (height - side + 1)), int(luck[2] * (width - side + 1))
    crop = image[:, top : top + side, left : left + side].float()
    small = F.interpolate(crop[None], (SIZE, SIZE), mode="area")[0]
    return (small.flip(2) if luck[3] < 0.5 else small).round().to(torch.uint8)


def sample_photo_crops(paths: list[Path], count: int, generator: torch.Generator) -> Tensor:
    """Cut `count` random crops, of all scales, equally many from each image.

    Returns:
        uint8 `[count, 3, 64, 64]`.
    """
    images = [_read_image(path) for path in paths]
    crops = [_crop(images[k % len(images)], generator) for k in range(count)]
    return torch.stack(crops)
