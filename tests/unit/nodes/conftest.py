"""ComfyUI's modules in this process: for what needs no running server."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from support import machine


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Return the package ``onereward.nodes``, with ComfyUI on an empty base directory."""
    tree, base = machine.comfyui_path(), tmp_path_factory.mktemp("base")
    if not (tree / "main.py").is_file():
        pytest.skip("there is no ComfyUI; run `make setup`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", "--cpu", "--base-directory", str(base)])
        patch.syspath_prepend(str(tree))
        importlib.import_module("comfy.options").enable_args_parsing()
        # First, as in ComfyUI's main.py: a library it imports later has a module `utils`, too.
        importlib.import_module("utils.install_util")
        for name in ("folders", "host", "hub", "inputs", "load", "fill", "config"):
            importlib.import_module(f"onereward.nodes.{name}")
        yield importlib.import_module("onereward.nodes")


@pytest.fixture
def models_dir(nodes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty models folder with ``diffusers``, ``onereward`` and ``loras``."""
    import folder_paths

    for name in ("diffusers", "onereward", "loras"):
        (tmp_path / name).mkdir()
        _, extensions = folder_paths.folder_names_and_paths[name]
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, name, ([str(tmp_path / name)], extensions)
        )
    return tmp_path
