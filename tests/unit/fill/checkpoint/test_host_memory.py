"""Loading takes little more host memory than the weights: measured on a model of real width."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.machine import ROOT
from support.published import write_transformer

SPARE_BYTES = 1 << 30
"""What was promised beside the file; the real peak is a few layers above it."""
LOAD = """
import resource, sys
sys.path.insert(0, "tests")
import conftest, torch
from pathlib import Path
from diffusers import FluxTransformer2DModel
from onereward.fill.checkpoint.component import FileComponent
component = FileComponent("transformer", Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module = component.load(torch.bfloat16)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
def test_the_peak_is_the_files_size_and_little_more(tmp_path: Path):
    write_transformer(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    assert size > 900 << 20
    # Shards as diffusers names them are read as one by any of their names.
    process = subprocess.run(
        [sys.executable, "-c", LOAD, str(files[0])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(process.stdout.split()[-1])
    assert peak < size + SPARE_BYTES
    assert peak < 1.3 * size, "no second copy"
