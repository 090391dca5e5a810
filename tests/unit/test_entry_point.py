"""What ComfyUI reads from the pack's ``__init__.py``.

ComfyUI reports a failing entry point in one line without a traceback, so it is looked at here.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import onereward

ROOT = Path(__file__).resolve().parents[2]

LOAD_AND_LIST_MODULES = """
import importlib.util, sys
before = set(sys.modules)
spec = importlib.util.spec_from_file_location(
    "pack", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]]
)
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
print(*sorted(set(sys.modules) - before - {"pack"}))
"""


def test_entry_point_is_async_and_web_directory_is_relative():
    assert inspect.iscoroutinefunction(onereward.comfy_entrypoint)
    assert onereward.WEB_DIRECTORY == "./web"


def test_there_is_no_v1_mapping():
    """With one, ComfyUI would ignore the entry point."""
    assert not hasattr(onereward, "NODE_CLASS_MAPPINGS")


def test_import_loads_nothing_else():
    command = [sys.executable, "-c", LOAD_AND_LIST_MODULES, str(ROOT)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= {"__future__"}
