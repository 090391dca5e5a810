"""Small judges with random weights, in the format of the published Qwen2.5-VL folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onereward.training.judge.build import JudgeShape, build_judge

BUNDLED_LIKE = JudgeShape(
    width=64,
    layers=2,
    heads=2,
    vision_width=64,
    vision_layers=2,
    vision_heads=2,
    full_layers=(1,),
    min_pixels=32 * 32,
    max_pixels=256 * 256,
)
REAL_LIKE = replace(
    BUNDLED_LIKE,
    width=128,
    vision_width=160,
    patch_size=14,
    window_size=112,
    min_pixels=56 * 56,
    max_pixels=28 * 28 * 1280,
)
"""The published patches, windows and limits: several windows, and full attention between them."""


def make_judge(folder: Path, shape: JudgeShape = BUNDLED_LIKE, seed: int = 0) -> Path:
    """Write a judge; return its folder."""
    build_judge(folder, shape, seed)
    return folder
