"""Halved patches: the same tokens from an image of half the size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onereward.lab.judge.build import JudgeShape
from onereward.lab.judge.halve_patches import halve_patches
from onereward.reward.judge import JudgeConfig, JudgeError
from onereward.reward.vlm.qwen_vl import QwenJudge
from support.judges import make_judge

SHAPE = JudgeShape(
    width=32, layers=1, heads=1, vision_width=32, vision_layers=1, vision_heads=1, full_layers=(0,)
)


def load(folder: Path) -> QwenJudge:
    return QwenJudge(JudgeConfig(folder=str(folder), precision="fp32"), torch.device("cpu"))


@torch.no_grad()
def test_an_image_is_embedded_as_it_was_enlarged(tmp_path: Path) -> None:
    folder = make_judge(tmp_path / "judge", replace(SHAPE, max_pixels=128 * 128, window_size=128))
    halve_patches(folder, tmp_path / "fine")
    before, after = load(folder), load(tmp_path / "fine")
    assert (before.patches.patch_size, after.patches.patch_size) == (8, 4)
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    enlarged = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    coarse, fine = before.encode(enlarged), after.encode(image)
    assert (fine.rows, fine.cols) == (coarse.rows, coarse.cols) == (8, 8)
    assert torch.allclose(fine.tokens, coarse.tokens, atol=1e-4)
    assert coarse.tokens.std() > 0.01


def test_what_has_no_half_is_refused(tmp_path: Path) -> None:
    folder = make_judge(tmp_path / "judge", replace(SHAPE, patch_size=7, window_size=56))
    with pytest.raises(JudgeError, match="patches of 7 pixels, which have no half"):
        halve_patches(folder, tmp_path / "fine")
    with pytest.raises(JudgeError, match=r"has no model\.safetensors; save the judge in one file"):
        halve_patches(tmp_path, tmp_path / "fine")
    assert not (tmp_path / "fine").exists()
