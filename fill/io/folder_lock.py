"""One writer per folder: who comes second is told who is writing.

The lock is the system's (``flock``, on Windows ``msvcrt``), so it ends with its process, however
that ends. Beside it lies who holds it, for the message alone::

    {"process": 4711, "computer": "studio", "since": "2026-11-30 21:40:03"}
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .json_text import label_of, read_json, shorten
from .writing import explained, make_folder, recover, write_text

LOCK, HOLDER = ".onereward.lock", ".onereward-holder.json"
_PATIENCE_S = 0.5
"""A run that is just ending is waited for."""
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
"""What file systems say that have no locks."""

log = logging.getLogger("onereward.fill")


class FolderInUse(ValueError):  # noqa: N818
    """Another process writes to the folder; says which."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep others from writing to a folder, and put right what a stop has left right in it.

    Within one process it may be taken again. On a drive without locks it is logged and goes on.

    Raises:
        FolderInUse: Another process holds it.
        WriteError: The folder cannot be written.

    Example: ``with folder_lock(run): ...``.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=_PATIENCE_S, is_singleton=True)
    is_first = not lock.is_locked
    _acquire(lock, folder)
    try:
        if is_first:
            write_text(folder / HOLDER, json.dumps(_myself()) + "\n")
            recover(folder)
        yield
    finally:
        if is_first:
            for name in (HOLDER, LOCK):
                with suppress(OSError):  # Windows deletes no file that is open
                    (folder / name).unlink(missing_ok=True)
        lock.release()


def put_right(folder: Path) -> None:
    """Put right what a stop has left in a folder that is only read, unless it is being written."""
    if any((folder / name).exists() for name in (HOLDER, LOCK)):
        with suppress(FolderInUse, OSError), folder_lock(folder):
            pass


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        with explained(folder / LOCK):
            try:
                lock.acquire()
            except Timeout:
                raise FolderInUse(
                    shorten(
                        f"{label_of(folder)} is in use by {_holder(folder)}; wait until that ends "
                        "or stop it, or choose another folder"
                    )
                ) from None
    except OSError as error:
        if getattr(error.__cause__, "errno", None) not in _UNSUPPORTED:
            raise
        log.warning("this drive has no locks: let only one process write to %s", folder)


def _myself() -> dict[str, str | int]:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"process": os.getpid(), "computer": socket.gethostname(), "since": now}


def _holder(folder: Path) -> str:
    try:
        values = read_json(folder / HOLDER)
        return f"process {values['process']} on {values['computer']} since {values['since']}"
    except (OSError, ValueError, KeyError):  # it has just begun, or just ended
        return "another process"
