"""Writing at once: what is left of other writers, the same bytes each time, and messages."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from onereward.fill.io.writing import (
    WriteError,
    append_line,
    atomic_file,
    atomic_folder,
    drop_torn_line,
    explained,
    write_image,
    write_text,
)
from onereward.training.runs.files import write_tensors


def temporary_name(folder: Path) -> str:
    """Return what a file in the making is called now."""
    with atomic_file(folder / "a") as temporary:
        temporary.touch()
        return temporary.name


def test_orphans_of_dead_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    temporary_file = temporary_name(tmp_path / "elsewhere")
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    folder = tmp_path / "data"
    folder.mkdir()
    computer = temporary_file.removeprefix(".onereward-tmp-").split("-")[0]
    orphan = folder / temporary_file.replace(str(os.getpid()), str(dead.pid))
    living = folder / temporary_file.replace(str(os.getpid()), str(os.getppid()))
    foreign = folder / temporary_file.replace(computer, "00000000").replace(
        str(os.getpid()), str(dead.pid)
    )
    for path in (orphan, living, foreign, folder / "notes.tmp"):
        path.touch()
    write_text(folder / "a.json", "{}")
    names = {path.name for path in folder.iterdir()}
    assert names == {"a.json", living.name, foreign.name, "notes.tmp"}


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def write_half() -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with atomic_folder(target) as fresh:
        (fresh / "a").write_text("old")

    def write_half() -> None:
        with atomic_folder(target) as fresh:
            (fresh / "b").write_text("new")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert [path.name for path in target.iterdir()] == ["a"]
    with atomic_folder(target) as fresh:
        (fresh / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]


def test_the_same_tensors_and_metadata_make_the_same_bytes(tmp_path: Path) -> None:
    """The library's own order of metadata differs from file to file."""
    metadata = {f"key {n}": f'täxt \N{SNOWMAN} "{n}" \\ \n' for n in range(12)}
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    for name in ("1", "2", "3"):
        write_tensors(tmp_path / name, tensors, metadata)
    assert len({(tmp_path / name).read_bytes() for name in "123"}) == 1
    with safe_open(tmp_path / "1", framework="pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), t) for name, t in tensors.items())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "x"), "(No space left on device); free some space and run again"),
        (OSError(errno.EROFS, "x"), "(Read-only file system); allow writing there, or choose"),
        (OSError(errno.EIO, "x"), "(Input/output error); check the disk and run again"),
        (SafetensorError("I/O error: Full (os error 28)"), "(No space left on device); free some"),
    ],
    ids=["full", "read-only", "broken", "safetensors"],
)
def test_what_the_system_says_becomes_a_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(WriteError) as refusal, explained(Path("/a/very/long/path/run/a.json")):
        raise error
    assert str(refusal.value).startswith(f"cannot write path/run/a.json {sentence}")
    assert len(str(refusal.value)) <= 300


def test_a_file_keeps_the_permissions_that_others_get(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_image(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_lines_are_appended_and_a_torn_one_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_line(path, '{"a": 1}')
    append_line(path, '{"a": "ä"}', is_durable=False)
    with path.open("ab") as file:
        file.write(b'{"a": 3')
    drop_torn_line(path)
    assert path.read_text("utf-8") == '{"a": 1}\n{"a": "ä"}\n'
