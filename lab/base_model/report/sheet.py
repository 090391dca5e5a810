"""Contact sheets."""

from pathlib import Path

import torch
from torch import Tensor


def save_sheet(path: Path, rows: list[Tensor]) -> None:
    """Write rows of images, each float32 `[N, 3, H, W]` in 0..1, as one PNG."""
    from PIL import Image

    lines = [torch.cat(list(row.clamp(0, 1)), 2) for row in rows]
    pixels = (torch.cat(lines, 1).permute(1, 2, 0) * 255).round().to(torch.uint8)
    temporary = path.with_suffix(".tmp.png")
    Image.fromarray(pixels.numpy()).save(temporary, optimize=True)
    temporary.replace(path)
