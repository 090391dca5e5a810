"""``onereward info``: versions, devices and bundled files, for bug reports."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command_help import add_command
from .version import PACKAGE_ROOT, package_version

if TYPE_CHECKING:
    from argparse import _SubParsersAction

LIBRARIES = ("torch", "triton", "diffusers", "transformers", "peft")
LIBRARIES += ("accelerate", "safetensors", "numpy")
GIB = 1024**3


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = add_command(
        subparsers, "info", "show versions, devices and bundled files", "info", "info --json"
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report to standard output."""
    report = collect()
    if arguments.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return 0
    for topic, values in report.items():
        sys.stdout.write(f"{topic}\n")
        for name, value in values.items():
            sys.stdout.write(f"  {name}: {value}\n")
    return 0


def collect() -> dict[str, dict[str, Any]]:
    """Return versions, devices and assets; a missing library has the version None."""
    versions: dict[str, Any] = {"onereward": package_version(), "python": platform.python_version()}
    versions |= {name: _installed_version(name) for name in LIBRARIES}
    return {
        "versions": versions,
        "devices": devices() if versions["torch"] else {},
        "assets": _assets(PACKAGE_ROOT / "assets"),
    }


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, str]:
    """Return where PyTorch can compute, and what is there. Example: ``devices()["cpu"]``."""
    import torch

    devices = {"cpu": f"{os.cpu_count()} threads"}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{gpu.name}, {gpu.total_memory / GIB:.1f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _assets(folder: Path) -> dict[str, str]:
    """Describe every bundled model: a folder with a ``model_index.json`` or ``config.json``."""
    models = {}
    for index in ("model_index.json", "config.json"):
        for path in sorted(folder.glob(f"*/{index}")):
            size = sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file())
            models[path.parent.name] = f"{size / 1e6:.1f} MB in {path.parent}"
    return models
