"""Folders that a list of choices is made of, within bounds: a list is read while the server waits.

Special files and links that lead in a circle are common in folders of servers and containers.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

MAX_FOLDERS = 3000
"""Read for one list."""
MAX_ENTRIES = 300_000
"""Names of files and folders read for one list."""

Visit = Callable[[str, Path, set[str]], bool]
"""Takes a folder's name below the root, its path and the names in it; returns whether to go on
into its folders."""


def walk_folders(
    root: Path,
    levels: int,
    visit: Visit,
    place: Callable[[str, Path], tuple[str, Path]] = lambda name, path: (name, path),
) -> None:
    """Visit the folders below a root, those near to it first; hidden ones are left out.

    Links are followed, as people keep images and models elsewhere, but not back to a folder above.
    What cannot be read is left out.

    Example: ``walk_folders(root, 3, lambda name, path, entries: bool(labels.append(name)))``.

    Args:
        root: Where to begin; it is not visited.
        levels: Below the root.
        visit: Called for each folder.
        place: Turns the name and path of a folder into those to use instead.
    """
    queue = deque([("", root, 0, frozenset[tuple[int, int]]())])
    num_folders = num_entries = 0
    while queue and num_folders < MAX_FOLDERS and num_entries < MAX_ENTRIES:
        name, path, level, above = queue.popleft()
        try:
            stat = path.stat()
            key = (stat.st_dev, stat.st_ino)
            if key in above:
                continue
            entries = _entries(path, MAX_ENTRIES - num_entries)
        except OSError:
            continue
        num_folders += 1
        num_entries += len(entries)
        if level and not visit(name, path, {entry.name for entry in entries}):
            continue
        if level < levels:
            prefix = f"{name}/" if name else ""
            for child in sorted(e.name for e in entries if _is_open_folder(e)):
                queue.append((*place(prefix + child, path / child), level + 1, above | {key}))


def _entries(path: Path, limit: int) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return [entry for entry, _ in zip(entries, range(limit), strict=False)]


def _is_open_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.name.startswith(".") and entry.is_dir()
    except OSError:
        return False


def file_stamps(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size in bytes and time of change of every file in a folder, or of a file.

    Example: ``file_stamps(Path("models/vae/ae.safetensors"))[0][1]``.
    """
    if not path.is_dir():
        stat = path.stat()
        return [(path.name, stat.st_size, stat.st_mtime_ns)]
    stamps: list[tuple[str, int, int]] = []
    folders = [str(path)]
    while folders and len(stamps) < MAX_ENTRIES:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():
                        stat = entry.stat()
                        name = entry.path[len(str(path)) + 1 :]
                        stamps.append((name, stat.st_size, stat.st_mtime_ns))
        except OSError:
            continue
    return sorted(stamps)
