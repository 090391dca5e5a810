"""The benchmark of the kernels, rehearsed, and the comparison of two checkouts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.machine import ROOT
from support.scripts import load_script

KERNELS = ROOT / "benchmarks" / "kernels"
PARTS = ("operations", "accuracy", "calls", "images", "gradient_steps", "memory")


def _run(out: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(KERNELS), "--out", str(out), *arguments],
        check=False, capture_output=True, text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"} | variables,
    )  # fmt: skip


@pytest.mark.slow
def test_every_part_runs_and_agrees(tmp_path: Path) -> None:
    process = _run(tmp_path, "--small", "--device", "cpu")
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    report = json.loads((tmp_path / "kernels.json").read_text())
    assert report["failed"] == {}
    for row in report["operations"]:
        assert max(row["error"].values()) < 1e-5, row
    for row in report["accuracy"]:
        assert max(row["output"], row["gradient"]) < 1e-5, row
    for part in ("calls", "images", "gradient_steps"):
        for row in report[part]:
            assert max(row["difference"].values()) < 1e-4, row
    tables = (tmp_path / "kernels.md").read_text()
    assert "**A rehearsal: nothing here says how fast" in tables
    assert tables.count("\n## ") == len(PARTS), "targets are for GPUs"
    assert all(report[part] for part in PARTS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--small"], "nothing is measured: no CUDA GPU is found; rehearse with --small"),
        (["--device", "cpu"], "--device cpu is for rehearsals only: add --small"),
    ],
    ids=["no GPU", "full size on a CPU"],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    process = _run(tmp_path / "out", *arguments, CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(reason), process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "out").exists()


def _targets() -> Any:
    spec = importlib.util.spec_from_file_location("kernel_targets", KERNELS / "targets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _times(**us: float) -> dict[str, dict[str, float]]:
    return {name: {"median": value} for name, value in us.items()}


def _operation(num_bytes: float, **us: float) -> dict[str, Any]:
    error = {"eager": 2e-3, "ours": 2e-3}
    return {"bytes": num_bytes, "us": _times(**us), "is_product": False, "error": error}


def test_targets_are_judged_by_the_worst_row() -> None:
    report = {
        "copy_gb_s": [3000.0, 1000.0],  # mean 2000
        "operations": [
            _operation(100e6, ours=55.0, compiled=55.0),  # 1818 GB/s: 91 %
            _operation(100e6, ours=62.5, compiled=61.0),  # 1600 GB/s: 80 %
            _operation(1e6, ours=62.5, compiled=6.0),  # too small to count
        ],
        "images": [
            {"side": 1024, "us": _times(eager=18.0, compiled=9.5, ours=10.0)},
            {"side": 512, "us": _times(eager=1.0, compiled=1.0, ours=10.0)},
        ],
        "gradient_steps": [
            {"side": 1024, "mode": "checkpointed", "us": _times(eager=16.0, ours=10.0)}
        ],
        "memory": [
            {"side": 1024, "peak": {"allocated": 20e9}},
            {"side": 1024, "peak": {"allocated": 22e9}},
        ],
    }
    outcomes = {t.name: (round(t.measured, 2), t.outcome) for t in _targets().check(report)}
    assert outcomes == {
        "large kernels, % of copy": (80.0, "required"),
        "large kernels, ours / compiled": (1.02, "required"),
        "error / allowed error": (0.5, "goal"),
        "image, eager / ours": (1.8, "goal"),
        "image, compiled / ours": (0.95, "missed"),
        "gradient step, checkpointed, eager / ours": (1.6, "required"),
        "peak GB of an image": (22.0, "missed"),
    }


def test_checkouts_are_compared_by_every_pixel() -> None:
    tool = load_script("compare_checkouts", "benchmarks")
    image = np.zeros((2, 2, 3), np.uint8)
    other_image = image.copy()
    other_image[1, 1, 2] = 1
    before = tool.renamed({"old-0.png": image, "old-source-0.png": image}, {"old": "new"})
    assert list(before) == ["new-0.png", "new-source-0.png"]
    after = {"new-0.png": other_image, "new-source-0.png": image, "more-0.png": image}
    rows = tool.compare(before, after)
    assert rows == {"more-0.png": False, "new-0.png": False, "new-source-0.png": True}
    assert "| new, source | new-source-0.png | yes |" in tool.as_table(rows)


def test_only_saved_images_are_compared() -> None:
    tool = load_script("compare_checkouts", "benchmarks")
    edit, save, preview = ({"class_type": name} for name in ("Edit", "SaveImage", "PreviewImage"))
    assert tool.saving_graph({"1": edit, "2": preview}) is None
    assert tool.saving_graph({"1": edit, "2": save, "3": preview}) == {"1": edit, "2": save}
