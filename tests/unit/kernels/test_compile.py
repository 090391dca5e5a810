"""The kernels as machine code for GPUs that are not here: no spills, wide loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.machine import ROOT

MAX_REGISTERS = {"fwd": 64, "bwd": 104, "sums": 192}
"""Of 255 a thread. Recorded with Triton 3.6 (48, 98 and 180), with room for other versions."""
WIDE = {"_qk_norm_rope", "_adaln", "_gelu"}
"""Kernels that move much data; the others' rows are too short for wide loads."""


def _compile(dtypes: str, targets: str, cache: Path) -> list[dict[str, Any]]:
    script = ROOT / "tests" / "support" / "compile_kernels.py"
    process = subprocess.run(
        [sys.executable, str(script), dtypes, targets],
        check=False, capture_output=True, text=True, env={"TRITON_CACHE_DIR": str(cache)},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    return [json.loads(line) for line in process.stdout.splitlines()]


def _check(row: dict[str, Any]) -> None:
    name, _, kind = row["kernel"].removesuffix("_kernel").rpartition("_")
    limit = MAX_REGISTERS["sums" if "True" in row["launch"] else kind]
    assert row["registers"] <= limit, row
    assert row["stack"] == row["local"] == 0, f"registers are spilled: {row}"
    assert not row["drops_nan"], f"NaN becomes a number: {row}"
    if name in WIDE:
        assert row["load_bits"] == 128, f"loads are narrow: {row}"


def test_compiles_for_hopper(tmp_path: Path):
    rows = _compile("bfloat16", "90", tmp_path)
    assert {row["kernel"] for row in rows} == {
        f"_{name}_{kind}_kernel"
        for name in ("qk_norm_rope", "adaln", "gelu", "cfg_euler")
        for kind in ("fwd", "bwd")
    }
    for row in rows:
        _check(row)


@pytest.mark.slow
def test_compiles_for_every_type_and_target(tmp_path: Path):
    rows = _compile("bfloat16,float16,float32", "80,89,90", tmp_path)
    assert {(r["dtype"], r["target"]) for r in rows} == {
        (d, t) for d in ("bfloat16", "float16", "float32") for t in (80, 89, 90)
    }
    for row in rows:
        _check(row)
