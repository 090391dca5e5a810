"""Halve the patches of a judge: it sees an image as it saw one twice as large before.

`python -m onereward.lab.judge.refine FOLDER TARGET`

Small patches show outlines to a fraction of a pixel, but four times as many take four times as
long. So a judge learns with large ones first, and goes on from here with small ones.
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
    """Write a judge with patches half as wide, which embeds one as it did that one enlarged.

    Args:
        folder: A judge whose weights are in one file.
        target: Where to write it; replaced if it is there.

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
    weights[name] = _summed(weights[name])
    with judge_like(folder, target) as fresh:
        for file, section in (("config.json", "vision_config"), ("preprocessor_config.json", None)):
            values = json.loads((fresh / file).read_text(encoding="utf-8"))
            (values[section] if section else values)["patch_size"] = width // 2
            (fresh / file).write_text(json.dumps(values, indent=2), encoding="utf-8")
        save_file(weights, fresh / WEIGHTS, metadata={"format": "pt"})


def _summed(weight: torch.Tensor) -> torch.Tensor:
    """Sum `[..., P, P]` over squares of two by two: an enlarged pixel counts in all four places."""
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
