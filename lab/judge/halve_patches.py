"""Halve the patch size of a judge: it embeds an image as it embedded one twice as large before.

`python -m onereward.lab.judge.halve_patches FOLDER TARGET`

Small patches resolve outlines to a fraction of a pixel, but there are four times as many. So a
judge is trained with large ones first, and from here on with small ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...reward.judge import JudgeError
from .copies import WEIGHTS, judge_like, weights_of

_EMBEDDING = "visual.patch_embed.proj.weight"


def halve_patches(folder: Path, target: Path) -> None:
    """Write a judge with patches half as wide; it embeds each like the same patch enlarged before.

    Args:
        folder: A judge whose weights are in one file.
        target: Where to write it; replaced if it exists.

    Raises:
        JudgeError: A patch is an odd number of pixels wide, or the weights are not in one file.
    """
    weights = weights_of(folder)
    name = next((key for key in weights if key.endswith(_EMBEDDING)), None)
    if name is None:
        raise JudgeError(f"{folder} has no {_EMBEDDING}; choose the folder of a judge")
    width = weights[name].shape[-1]
    if width % 2:
        raise JudgeError(f"{folder} has patches of {width} pixels, which have no half")
    weights[name] = _sum_blocks(weights[name])
    with judge_like(folder, target) as fresh:
        for file, section in (("config.json", "vision_config"), ("preprocessor_config.json", None)):
            values = json.loads((fresh / file).read_text(encoding="utf-8"))
            (values[section] if section else values)["patch_size"] = width // 2
            (fresh / file).write_text(json.dumps(values, indent=2), encoding="utf-8")
        save_file(weights, fresh / WEIGHTS, metadata={"format": "pt"})


def _sum_blocks(weight: torch.Tensor) -> torch.Tensor:
    """Sum `[..., P, P]` over 2x2 blocks: an enlarged pixel counts in all four of them."""
    half = weight.shape[-1] // 2
    blocks = weight.unflatten(-2, (half, 2)).unflatten(-1, (half, 2))
    return blocks.sum((-3, -1)).contiguous()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    halve_patches(arguments.folder, arguments.target)


if __name__ == "__main__":
    main()
