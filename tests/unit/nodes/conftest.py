"""The nodes in this process: for what needs no running server."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def nodes(comfy_base: Path) -> ModuleType:
    """Return the package ``onereward.nodes``."""
    del comfy_base  # for the import of ComfyUI
    for name in (
        *("paths.folders", "paths.model_files", "paths.hub", "paths.model_choice"),
        *("comfy_host", "node", "inputs", "loaders", "edit", "settings"),
    ):
        importlib.import_module(f"onereward.nodes.{name}")
    return importlib.import_module("onereward.nodes")


@pytest.fixture
def models_dir(nodes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a models folder with the empty folders that our nodes look into."""
    import folder_paths

    names = ("diffusers", "onereward", "loras", "diffusion_models", "vae", "text_encoders")
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    for name in (*names, "checkpoints"):
        (tmp_path / name).mkdir()
        _, extensions = folder_paths.folder_names_and_paths[name]
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, name, ([str(tmp_path / name)], extensions)
        )
    return tmp_path
