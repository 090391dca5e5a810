"""How images move away from the start's: the traces that a hacked reward leaves.

Every measure is of the area that is replaced, on images made from the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ...edited_image import EditedImage, EditPair

_LAPLACE = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]) / 4
_SMALL = 1e-4
"""Below this a ratio would be one of rounding errors."""
_RATIOS = ("high_frequency", "diversity")

MAX_BRIGHTNESS = MAX_SATURATION = 0.1
MAX_HIGH_FREQUENCY = 1.5
MIN_DIVERSITY = 0.5
MAX_OUTSIDE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Differences between the policy's images and the start's.

    Example: ``measure_drift(start, now).complaint()`` is None as long as all is well.
    """

    brightness: float
    """Mean difference of the mean of the channels, -1..1."""
    saturation: float
    """Mean difference of the largest and the smallest channel's distance, -1..1."""
    high_frequency: float
    """Mean absolute Laplacian as a ratio; 1 = as at the start, lattices and noise raise it."""
    diversity: float
    """Distance of images from two noises as a ratio; 1 = as at the start, 0 = all alike."""
    outside: float
    """Change of the error where nothing should change, before it is pasted back; 0..1."""

    def complaint(self) -> str | None:
        """Return what has gone too far, or None. The limits are generous: training moves things."""
        if abs(self.brightness) > MAX_BRIGHTNESS:
            return f"brightness has moved by {self.brightness:+.2f}"
        if abs(self.saturation) > MAX_SATURATION:
            return f"saturation has moved by {self.saturation:+.2f}"
        if self.high_frequency > MAX_HIGH_FREQUENCY:
            return f"fine structure is {self.high_frequency:.2f} times the start's (lattice, noise)"
        if self.diversity < MIN_DIVERSITY:
            return f"images of different seeds are {self.diversity:.2f} times as different"
        if self.outside > MAX_OUTSIDE:
            return f"the error outside the mask has grown by {self.outside:.2f}"
        return None


def measure_drift(start: Sequence[EditPair], now: Sequence[EditPair]) -> Drift:
    """Compare images of the same conditions and noises.

    Args:
        start: By condition, at least one, the images that two noises led to before training.
        now: The same of the policy.
    """
    before, after = _mean_statistics(start), _mean_statistics(now)
    changes: dict[str, float] = {}
    for name in (field.name for field in fields(Drift)):
        if name in _RATIOS:
            changes[name] = (after[name] + _SMALL) / (before[name] + _SMALL)
        else:
            changes[name] = after[name] - before[name]
    return Drift(**changes)


def _mean_statistics(pairs: Sequence[EditPair]) -> dict[str, float]:
    statistics = [_statistics(*pair) for pair in pairs]
    return {name: sum(s[name] for s in statistics) / len(pairs) for name in statistics[0]}


def _statistics(first: EditedImage, second: EditedImage) -> dict[str, float]:
    images = torch.stack([first.sampled, second.sampled])  # [2, 3, H, W]
    inside = first.mask > 0.5  # [H, W]
    channels = images.amax(dim=1) - images.amin(dim=1)  # [2, H, W]
    difference = (images[0] - images[1]).square().mean(dim=0)  # [H, W]
    outside = (images - first.source).abs().mean(dim=(0, 1))  # [H, W]
    return {
        "brightness": float(images.mean(dim=(0, 1))[inside].mean()),
        "saturation": float(channels.mean(dim=0)[inside].mean()),
        "high_frequency": float(_laplacian(images)[inside].mean()),
        "diversity": float(difference[inside].mean().sqrt()),
        "outside": float(outside[~inside].mean()) if (~inside).any() else 0.0,
    }


def _laplacian(images: Tensor) -> Tensor:
    """Return its absolute value averaged over images and channels, ``[H, W]``."""
    flat = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    kernel = _LAPLACE.to(images)[None, None]
    return F.conv2d(flat, kernel)[:, 0].abs().mean(dim=0)
