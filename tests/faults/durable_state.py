"""What of a folder is surely on the disk: what a power cut leaves in the worst case.

A file's contents are there after its own fsync, a name after the fsync of its folder. What was
written or renamed since may be lost in any part; the worst case is that all of it is::

    state = DurableState(root, spool)
    state.note("write", "/root/a"); state.note("fsync", "/root/a"); state.note("fsync", "/root")
    state.write(); restore(spool, root)
"""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

_FOLDER = "folder"


class DurableState:
    """The durable contents and names below a folder; files are known by their inode."""

    def __init__(self, root: Path, spool: Path) -> None:
        self._root, self._spool = str(root), spool
        spool.mkdir(parents=True, exist_ok=True)
        self._contents: dict[int, str] = {}
        """Inode to the copy of what it held at its last fsync."""
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        """Inode of a folder to name, inode and whether it is a folder, at its last fsync."""
        self._copies = 0
        for folder, _, files in os.walk(root):  # what is there before is on the disk
            for name in files:
                self._sync_file(os.path.join(folder, name))
            self._sync_folder(folder)

    def note(self, kind: str, path: str, target: str = "") -> None:
        """Take in an operation that was done."""
        del target
        if kind == "create":  # cut off, or new under the number of a file that is gone
            self._contents.pop(os.stat(path).st_ino, None)
        if kind == "fsync":
            (self._sync_folder if os.path.isdir(path) else self._sync_file)(path)

    def write(self) -> None:
        """Write down the state for :func:`restore`."""
        tree: dict[str, str] = {}
        self._add(os.stat(self._root).st_ino, "", tree)
        with io.FileIO(self._spool / "tree.json", "w") as file:
            file.write(json.dumps(tree).encode())

    def _add(self, inode: int, path: str, tree: dict[str, str]) -> None:
        for name, (inner, is_folder) in self._names.get(inode, {}).items():
            inner_path = os.path.join(path, name)
            if is_folder:
                tree[inner_path] = _FOLDER
                self._add(inner, inner_path, tree)
            else:
                # A name without contents is an empty file.
                tree[inner_path] = self._contents.get(inner, "")

    def _sync_file(self, path: str) -> None:
        copy = self._spool / str(self._copies)
        self._copies += 1
        with io.FileIO(path) as source, io.FileIO(copy, "w") as file:  # none of them is counted
            file.write(source.readall())
        self._contents[os.stat(path).st_ino] = str(copy)

    def _sync_folder(self, path: str) -> None:
        names = {}
        for name in _LIST(path):
            status = os.lstat(os.path.join(path, name))
            names[name] = (status.st_ino, os.path.isdir(os.path.join(path, name)))
        self._names[os.stat(path).st_ino] = names


_LIST = os.listdir


def restore(spool: Path, root: Path) -> None:
    """Make a folder what the power cut left."""
    shutil.rmtree(root)
    root.mkdir()
    for name, copy in json.loads((spool / "tree.json").read_text()).items():
        if copy == _FOLDER:
            (root / name).mkdir(exist_ok=True)
        elif copy:
            shutil.copyfile(copy, root / name)
        else:
            (root / name).touch()
