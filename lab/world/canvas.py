"""The 64x64 canvas: pixel grid, soft coverage, painting, and seeded draws for a whole batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 64
"""Side of every image of the world, in pixels."""


def pixel_grid() -> tuple[Tensor, Tensor]:
    """Return x and y of the pixel centres, each float32 `[64, 64]`, in 0.5..63.5."""
    centres = torch.arange(SIZE) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return x, y


def spread(values: Tensor) -> Tensor:
    """View one number per scene `[B]` as `[B, 1, 1]`."""
    return values.view(-1, 1, 1)


def soft_edge(distance: Tensor) -> Tensor:
    """Turn signed distance in pixels (negative inside) into coverage 0..1, one pixel of slope."""
    return (0.5 - distance).clamp(0, 1)


def blend(image: Tensor, coverage: Tensor, colour: Tensor) -> Tensor:
    """Paint `colour` `[B, 3]` over `image` `[B, 3, H, W]` where `coverage` `[B, H, W]` is 1."""
    return torch.lerp(image, colour[:, :, None, None].expand_as(image), coverage[:, None])


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Grow a mask `[B, H, W]` by `radius` pixels (square neighbourhood)."""
    return F.max_pool2d(mask[:, None], 2 * radius + 1, 1, radius)[:, 0]


def erode(mask: Tensor, radius: int) -> Tensor:
    """Shrink a mask `[B, H, W]` by `radius` pixels; the frame of the image does not eat in."""
    return 1 - dilate(1 - mask, radius)


def box_mask(box: Tensor) -> Tensor:
    """Return float32 `[B, 64, 64]`, 1 inside the integer boxes `[B, 4]` (x0, y0, x1, y1)."""
    x, y = pixel_grid()
    x0, y0, x1, y1 = (spread(side) for side in box.float().unbind(1))
    return ((x > x0) & (x < x1) & (y > y0) & (y < y1)).float()


class Draw:
    """Random values for `count` scenes, all from one CPU generator.

    Example: ``Draw(torch.Generator().manual_seed(0), 4).uniform(2, 5)``  # [4]
    """

    def __init__(self, generator: torch.Generator, count: int) -> None:
        self.generator = generator
        self.count = count

    def uniform(self, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Draw float32 `[B]` in low..high (numbers or one bound per scene)."""
        return torch.rand(self.count, generator=self.generator) * (high - low) + low

    def integer(self, low: int, high: int) -> Tensor:
        """Draw int64 `[B]` in low..high - 1."""
        return torch.randint(low, high, (self.count,), generator=self.generator)

    def chance(self, probability: float) -> Tensor:
        """Draw bool `[B]`, true with the given probability."""
        return torch.rand(self.count, generator=self.generator) < probability

    def normal(self, *shape: int) -> Tensor:
        """Draw float32 `[B, *shape]`, standard normal."""
        return torch.randn(self.count, *shape, generator=self.generator)

    def pick(self, allowed: Tensor) -> Tensor:
        """Draw one allowed index per row of bool `[B, K]`; any index where none is allowed."""
        luck = torch.rand(allowed.shape, generator=self.generator)
        return (luck + allowed).argmax(1)

    def weighted(self, weights: tuple[float, ...]) -> Tensor:
        """Draw int64 `[B]`, index k with a probability proportional to `weights[k]`."""
        return torch.multinomial(
            torch.tensor(weights), self.count, replacement=True, generator=self.generator
        )
