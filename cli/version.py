"""This package's version, installed or not."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent.parent


def package_version() -> str:
    """Return the version from ``pyproject.toml`` in a checkout, else the installed one."""
    project = PACKAGE_ROOT / "pyproject.toml"
    if project.is_file():
        match = re.search(r'^version = "([^"]+)"', project.read_text("utf-8"), re.MULTILINE)
        if match:
            return match[1]
    from importlib.metadata import version

    return version("onereward")
