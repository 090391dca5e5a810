"""Lists of folders: what a disk may hold besides folders and files, and how much of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def walk(nodes: ModuleType) -> Any:
    return nodes.paths.folder_walk


def names_below(walk: Any, root: Path, levels: int = 3) -> list[str]:
    names: list[str] = []
    walk.walk_folders(root, levels, lambda name, _path, _entries: names.append(name) is None)
    return names


def test_folders_near_the_root_come_first_and_hidden_ones_not_at_all(walk: Any, tmp_path: Path):
    for name in ("b/c/d/e", "a", ".git/x"):
        (tmp_path / name).mkdir(parents=True)
    assert names_below(walk, tmp_path) == ["a", "b", "b/c", "b/c/d"]


def test_links_are_followed_but_not_back(walk: Any, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere" / "images"
    elsewhere.mkdir(parents=True)
    root = tmp_path / "input"
    root.mkdir()
    (root / "linked").symlink_to(elsewhere)
    for n in range(30):  # 30 to the 3rd names, were they followed
        (root / f"loop{n}").symlink_to(root)
    (root / "broken").symlink_to(tmp_path / "nowhere")
    (root / "self").symlink_to(root / "self")
    os.mkfifo(root / "pipe")
    assert names_below(walk, root) == ["linked"]


def test_a_list_ends_however_many_folders_there_are(
    walk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(walk, "MAX_FOLDERS", 50)
    for n in range(200):
        (tmp_path / f"{n:03}").mkdir()
    assert len(names_below(walk, tmp_path)) == 49  # the root is one


def test_stamps_are_those_of_the_files(walk: Any, tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_bytes(b"123")
    (tmp_path / "a.txt").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    stamps = walk.file_stamps(tmp_path)
    assert [(name, size) for name, size, _ in stamps] == [("a.txt", 0), (f"sub{os.sep}b.txt", 3)]
    assert stamps[1][2] == (tmp_path / "sub" / "b.txt").stat().st_mtime_ns
    assert walk.file_stamps(tmp_path / "a.txt")[0][:2] == ("a.txt", 0)


PIPES = {
    "transformer": "diffusion_models/flux-fill.safetensors",
    "checkpoint": "checkpoints/flux-fill.safetensors",
    "index of a model": "diffusers/m/model_index.json",
    "config of a judge": "onereward/m/config.json",
    "state of a cache": "diffusers/models--a--b/refs/main",
}


@pytest.mark.parametrize("kind", ["pipe", "broken link", "device", "deep", "huge"])
@pytest.mark.parametrize("place", PIPES)
def test_no_file_stops_the_lists_of_the_loaders(
    place: str, kind: str, nodes: ModuleType, models_dir: Path
):
    """A list that raises would take the whole pack away, and one that waits the server."""
    path = models_dir / PIPES[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "broken link":
        path.symlink_to("/nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "deep":
        path.write_bytes((300_000).to_bytes(8, "little") + b"[" * 300_000)
    else:
        path.touch()
        os.truncate(path, 8 << 30)  # no byte of it is on the disk
    beside = path.with_name({"config.json": "model_index.json"}.get(path.name, "config.json"))
    beside.write_text("{}")
    start = time.monotonic()
    for node in (nodes.OneRewardLoadModel, nodes.OneRewardLoadJudge, nodes.OneRewardLoadAdapter):
        node.define_schema()
    assert time.monotonic() - start < 10
