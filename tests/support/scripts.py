"""Loads files of ``scripts/`` and ``benchmarks/`` as modules, without a change to the path."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from support import machine


def load_script(name: str, folder: str = "scripts") -> ModuleType:
    """Execute ``<folder>/<name>.py`` and return it as a module.

    Example: ``load_script("setup_env").main()``.
    """
    path = machine.ROOT / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their types
    spec.loader.exec_module(module)
    return module
