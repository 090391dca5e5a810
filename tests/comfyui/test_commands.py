"""What the make targets start: the demo, and a server for people."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import machine
from support.workflows import demo_workflows

SCRIPTS = machine.ROOT / "scripts"
TIMEOUT_S = 600


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "demo.py"), *arguments]
    return subprocess.run(command, timeout=TIMEOUT_S, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_demo_edits_images_and_draws_one_sheet(tmp_path: Path):
    process = run_demo("--output", str(tmp_path))
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    num_jobs = len(demo_workflows())
    assert f"{num_jobs} of {num_jobs} jobs done" in process.stdout
    assert len(list(tmp_path.glob("*.png"))) > num_jobs
    # Each edit has a source whose mask is outlined, and one of eight candidates is framed.
    pixels = np.asarray(Image.open(tmp_path / "contact-sheet.png"))
    outlined, framed = (pixels == (255, 214, 0)).all(-1), (pixels == (0, 114, 178)).all(-1)
    rows, columns = np.nonzero(outlined)
    assert len(set(rows // 256)) >= 3
    assert len(set(columns // 256)) >= 3
    rows, columns = np.nonzero(framed)
    assert rows.max() - rows.min() >= 256
    assert 256 <= columns.max() - columns.min() < 2 * 256, "one candidate"


@pytest.mark.slow
def test_demo_fails_if_a_job_fails(tmp_path: Path):
    workflows, output = tmp_path / "workflows", tmp_path / "output"
    workflows.mkdir()
    graph = {"1": {"class_type": "PreviewImage", "inputs": {}}}
    (workflows / "remove.json").write_text(json.dumps(graph))
    process = run_demo("--workflows", str(workflows), "--output", str(output))
    assert process.returncode == 1
    assert "Required input is missing: images" in process.stdout


@pytest.mark.slow
def test_server_for_people_prints_its_address_and_stops(tmp_path: Path):
    command = [sys.executable, str(SCRIPTS / "run_comfyui.py"), "--base-directory", str(tmp_path)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = printed_address(process)
            with urllib.request.urlopen(f"{address}/object_info/OneRewardFill") as answer:
                assert "OneRewardFill" in json.load(answer)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0


def printed_address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    while line := process.stdout.readline():
        if address := re.search(r"http://\S+", line):
            return address[0]
    raise AssertionError("the server ended before it printed its address")
