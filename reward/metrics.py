"""Scores that need no judge: numbers that mean exactly what their names say."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

import torch


def outside_difference(
    result: torch.Tensor, source: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the largest absolute difference of any channel where the mask is 0.

    Args:
        result: ``[B, H, W, 3]``, 0..1.
        source: ``[B, H, W, 3]``, 0..1.
        mask: ``[B, H, W]``, 1 = repainted.

    Returns:
        ``[B]``, 0..1; 0 = nothing outside the mask has changed.
    """
    difference = (result - source).abs().amax(dim=-1)
    return torch.where(mask > 0, 0.0, difference).amax(dim=(1, 2))


def seam_step(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return how much larger the step across the mask's border is than the steps beside it.

    The mean absolute difference of neighbours, one inside and one outside the mask, less the mean
    over neighbours that are both outside but within 2 pixels of the border.

    Args:
        image: ``[B, H, W, 3]``, 0..1.
        mask: ``[B, H, W]``, 1 = repainted.

    Returns:
        ``[B]``, about -1..1; 0 or less = no visible seam; NaN where the mask has no border.
    """
    inside = mask > 0.5
    near = _near_border(inside, 2)
    across, beside = _Mean(len(image)), _Mean(len(image))
    for axis in (1, 2):
        (a, b), (first, second) = _neighbours(image, axis), _neighbours(inside, axis)
        step = (a - b).abs().mean(dim=-1)
        across.add(step, first != second)
        beside.add(step, ~first & ~second & torch.logical_and(*_neighbours(near, axis)))
    return across.value() - torch.nan_to_num(beside.value())


def tone_step(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return how far colours on the two sides of the mask's border are apart.

    Along the border, the mean absolute difference of the mean colour inside the mask and the mean
    colour outside it, each over a window of an eighth of the image's shorter side.

    Args:
        image: ``[B, H, W, 3]``, 0..1.
        mask: ``[B, H, W]``, 1 = repainted.

    Returns:
        ``[B]``, 0..1; 0 = the same tone on both sides; NaN where the mask has no border.
    """
    inside = (mask > 0.5).float()[:, None]
    pixels, reach = image.permute(0, 3, 1, 2), _reach(image)
    step = (_local_mean(pixels, inside, reach) - _local_mean(pixels, 1 - inside, reach)).abs()
    border = (_grown(inside, 1) * _grown(1 - inside, 1))[:, 0]
    return (step.mean(dim=1) * border).sum(dim=(1, 2)) / border.sum(dim=(1, 2))


def texture_gap(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return how much busier or emptier the mask is than what lies around it.

    The absolute binary logarithm of the ratio of the mean steps between neighbours, both of them
    inside the mask, and both of them outside but within an eighth of the image's shorter side of
    it. A step of 1/255 is added to both, below which nothing can be seen.

    Args:
        image: ``[B, H, W, 3]``, 0..1.
        mask: ``[B, H, W]``, 1 = repainted.

    Returns:
        ``[B]``; 0 = as busy, 1 = twice or half as busy; NaN where one side is empty.
    """
    inside = mask > 0.5
    around = _near_border(inside, _reach(image))
    means = []
    for where in (inside, around):
        mean = _Mean(len(image))
        for axis in (1, 2):
            a, b = _neighbours(image, axis)
            mean.add((a - b).abs().mean(dim=-1), torch.logical_and(*_neighbours(where, axis)))
        means.append(mean.value() + 1 / 255)
    return (means[0] / means[1]).log2().abs()


def _reach(image: torch.Tensor) -> int:
    return max(min(image.shape[1:3]) // 16, 1)


def _grown(area: torch.Tensor, by: int) -> torch.Tensor:
    return torch.nn.functional.max_pool2d(area, 2 * by + 1, 1, by)


def _local_mean(pixels: torch.Tensor, where: torch.Tensor, reach: int) -> torch.Tensor:
    def pool(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 2 * reach + 1, 1, reach)

    return pool(pixels * where) / pool(where).clamp(min=1e-6)


def _near_border(inside: torch.Tensor, reach: int) -> torch.Tensor:
    return (_grown(inside.float()[:, None], reach)[:, 0] > 0) & ~inside


def _neighbours(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every pixel but the last along an axis, and the one after it."""
    return x.narrow(axis, 0, x.shape[axis] - 1), x.narrow(axis, 1, x.shape[axis] - 1)


class _Mean:
    """A mean per batch item over selected values, gathered in pieces."""

    def __init__(self, batch: int) -> None:
        self._sum = torch.zeros(batch)
        self._count = torch.zeros(batch)

    def add(self, values: torch.Tensor, where: torch.Tensor) -> None:
        """Take in the chosen values."""
        self._sum += torch.where(where, values, 0.0).sum(dim=(1, 2)).cpu()
        self._count += where.sum(dim=(1, 2)).cpu()

    def value(self) -> torch.Tensor:
        """Return the means; NaN where nothing was chosen."""
        return self._sum / self._count


def text_correct(image: torch.Tensor, words: str) -> list[float]:
    """Return the share of the words that optical character recognition reads exactly.

    Case and punctuation do not count. Needs the optional package rapidocr.

    Args:
        image: ``[B, H, W, 3]``, 0..1.
        words: What should be readable.

    Raises:
        ValueError: There are no words.
        ImportError: rapidocr is not installed; says how to install it.
    """
    expected = _normalise(words)
    if not expected:
        raise ValueError("words is empty; type the text that should be readable")
    reader = _reader()
    images = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    scores = []
    for pixels in images:
        result = reader(pixels[..., ::-1])  # the reader takes BGR
        read = set(_normalise(" ".join(getattr(result, "txts", None) or ())))
        scores.append(sum(word in read for word in expected) / len(expected))
    return scores


def measure(
    images: torch.Tensor, mask: torch.Tensor, source: torch.Tensor | None = None
) -> dict[str, list[float | None]]:
    """Return what can be measured without reading, by name, one number per image.

    Args:
        images: ``[B, H, W, 3]``, 0..1.
        mask: ``[1 or B, H, W]``, 1 = repainted.
        source: ``[1 or B, H, W, 3]``, 0..1; None: nothing is said about the outside.

    Raises:
        ValueError: Mask or source is not as large as the images.
    """
    masks = _fit("mask", mask, images.shape[:3])
    steps = seam_step(images, masks).tolist()
    metrics: dict[str, list[float | None]] = {
        "seam_step": [None if math.isnan(step) else step for step in steps]
    }
    if source is not None:
        sources = _fit("source", source, images.shape)
        metrics["outside_difference"] = list(outside_difference(images, sources, masks).tolist())
    return metrics


def quoted(prompt: str) -> str:
    """Return the words that a prompt asks for: what stands in double quotes."""
    return " ".join(prompt.split('"')[1::2])


def _fit(name: str, values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if values.shape[1:] != shape[1:] or len(values) not in (1, shape[0]):
        raise ValueError(
            f"{name} has shape {list(values.shape)}, but {list(shape)} is expected; give the one "
            "that the images were made with"
        )
    return values.to(torch.float32).expand(shape)


def _normalise(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@lru_cache(maxsize=1)
def _reader() -> Any:
    try:
        from rapidocr import RapidOCR  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "reading text needs the package rapidocr; install it with: pip install rapidocr "
            "onnxruntime"
        ) from error
    return RapidOCR()
