"""Loads files of ``scripts/`` as modules, without putting that folder on the path."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from support import machine


def load_script(name: str) -> ModuleType:
    """Execute ``scripts/<name>.py`` and return it as a module."""
    path = machine.ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
