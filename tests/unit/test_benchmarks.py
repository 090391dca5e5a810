"""The benchmark of the kernels, rehearsed: a mistake in it would cost minutes of a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.machine import ROOT

PARTS = ("operations", "accuracy", "calls", "images", "gradient_steps", "memory")


@pytest.mark.slow
def test_every_part_runs_and_agrees(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "kernels"), "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--small", "--device", "cpu"],
        check=False, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
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
    assert tables.count("\n## ") == len(PARTS)
    assert all(report[part] for part in PARTS)
