"""Averaged judges: the mean of each weight, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from onereward.lab.judge.average import average_judges
from onereward.lab.judge.build import JudgeShape
from onereward.reward.judge import JudgeError
from support.judges import make_judge

SHAPE = JudgeShape(
    width=32, layers=1, heads=1, vision_width=32, vision_layers=1, vision_heads=1, full_layers=(0,)
)
WEIGHTS = "model.safetensors"


def test_every_weight_is_the_mean(tmp_path: Path) -> None:
    folders = [make_judge(tmp_path / name, SHAPE) for name in ("a", "b", "c")]
    weights = load_file(folders[0] / WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    changed_weights = [
        {k: v + torch.randn(v.shape, generator=generator).to(v.dtype) for k, v in weights.items()}
        for _ in folders[1:]
    ]
    for folder, tensors in zip(folders[1:], changed_weights, strict=True):
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    average_judges(folders, tmp_path / "mean")
    average = load_file(tmp_path / "mean" / WEIGHTS)
    assert average.keys() == weights.keys()
    for name, value in average.items():
        mean = torch.stack([w[name].double() for w in (weights, *changed_weights)]).mean(0)
        assert value.dtype == weights[name].dtype
        assert torch.allclose(value.double(), mean, atol=1e-6), name
    names = {file.name for file in folders[0].iterdir()} - {"README.md", "report.json"}
    assert {file.name for file in (tmp_path / "mean").iterdir()} == names


def test_what_cannot_be_averaged_is_refused(tmp_path: Path) -> None:
    narrow = make_judge(tmp_path / "narrow", SHAPE)
    wide = make_judge(tmp_path / "wide", replace(SHAPE, width=64, heads=2))
    for folders, reason in (
        ([narrow, wide], "of different shapes"),
        ([narrow, tmp_path], r"has no model\.safetensors"),
        ([], "nothing to average"),
    ):
        with pytest.raises(JudgeError, match=reason):
            average_judges(folders, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
