"""ComfyUI's modules in this process: for what needs no running server."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import machine


@pytest.fixture(scope="session")
def comfy_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make ``import comfy`` work, on an empty base directory; return that."""
    tree, base = machine.comfyui_path(), tmp_path_factory.mktemp("base")
    if not (tree / "main.py").is_file():
        pytest.skip("there is no ComfyUI; run `make setup`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", "--cpu", "--base-directory", str(base)])
        patch.syspath_prepend(str(tree))
        importlib.import_module("comfy.options").enable_args_parsing()
        # First, as in ComfyUI's main.py: a library it imports later has a module `utils`, too.
        importlib.import_module("utils.install_util")
        yield base
