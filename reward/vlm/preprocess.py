"""Images to the judge's patches with tensor operations only, so that gradients reach the pixels.

Equal to transformers' ``Qwen2VLImageProcessor`` up to its rounding of resized images to 8 bits
after each of two passes: at most 2/255 and on average under 0.5/255, before normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

MAX_ASPECT = 200
"""The processor's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchConfig:
    """What ``preprocessor_config.json`` says. Example: ``to_patches(image, patch_config)``."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def factor(self) -> int:
        """Sides of a resized image are multiples of this many pixels: one token each."""
        return self.patch_size * self.merge_size


def read_patch_config(values: Mapping[str, Any], max_pixels: int | None = None) -> PatchConfig:
    """Read a ``preprocessor_config.json`` of either generation.

    Args:
        values: The file's contents.
        max_pixels: Cap on the pixels of an image, below the checkpoint's own.
    """
    size = values.get("size")
    size = size if isinstance(size, dict) else {}
    low = values.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
    high = values.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
    high = int(high or 28 * 28 * 1280)
    return PatchConfig(
        patch_size=int(values.get("patch_size", 14)),
        temporal_patch_size=int(values.get("temporal_patch_size", 2)),
        merge_size=int(values.get("merge_size", 2)),
        min_pixels=int(low or 56 * 56),
        max_pixels=min(high, max_pixels) if max_pixels else high,
        mean=tuple(values["image_mean"]),
        std=tuple(values["image_std"]),
    )


def judged_size(height: int, width: int, config: PatchConfig) -> tuple[int, int]:
    """Return height and width at which the judge sees an image.

    Source: transformers, ``smart_resize``.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(
            f"image is {width}x{height} pixels, but the judge needs an aspect below {MAX_ASPECT}:1"
        )
    factor = config.factor
    rows, cols = (max(round(side / factor), 1) * factor for side in (height, width))
    if rows * cols > config.max_pixels:
        scale = math.sqrt(height * width / config.max_pixels)
        rows, cols = (
            max(math.floor(side / scale / factor), 1) * factor for side in (height, width)
        )
    elif rows * cols < config.min_pixels:
        scale = math.sqrt(config.min_pixels / (height * width))
        rows, cols = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return rows, cols


def to_patches(image: torch.Tensor, config: PatchConfig) -> tuple[torch.Tensor, tuple[int, int]]:
    """Resize, normalise and cut one image; differentiable.

    Args:
        image: ``[3, H, W]``, floating point, 0..1.
        config: The checkpoint's settings.

    Returns:
        Patches ``[rows * cols, 3 * temporal * patch * patch]`` in the order the vision tower
        expects, and (rows, cols) in patches.
    """
    size = judged_size(image.shape[1], image.shape[2], config)
    x = image[None]
    if x.shape[-2:] != size:
        x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False)
        x = x.clamp(0, 1)
    mean = torch.tensor(config.mean, dtype=x.dtype, device=x.device)[:, None, None]
    std = torch.tensor(config.std, dtype=x.dtype, device=x.device)[:, None, None]
    x = (x[0] - mean) / std
    p, m = config.patch_size, config.merge_size
    rows, cols = size[0] // p, size[1] // p
    x = x.reshape(3, rows // m, m, p, cols // m, m, p)  # [3, R/m, m, p, C/m, m, p]
    # Tokens of one merged group come next to each other: [row group, column group, row, column].
    x = x.permute(1, 4, 2, 5, 0, 3, 6)
    x = x.unsqueeze(5).expand(*x.shape[:5], config.temporal_patch_size, p, p)
    return x.reshape(rows * cols, -1), (rows, cols)
