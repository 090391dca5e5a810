"""One change of a folder's pairs at a time, among threads and processes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..fill.io.json_text import label_of
from ..fill.io.writing import explained

LOCK = ".onereward-pairs.lock"
_PATIENCE_S = 30.0
"""A change takes milliseconds, on slow drives with many pairs seconds."""
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
"""What file systems say that have no locks."""


@contextmanager
def pairs_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which pairs are read and written anew; a thread may take it again.

    Unlike a job's lock on its folder it is held for one change only, so that people can label while
    a job adds candidates or a judge's labels. On a drive without locks it holds nobody off.

    Raises:
        ValueError: Somebody else has held it for half a minute.
        WriteError: The folder cannot be written.

    Example: ``with pairs_lock(folder): data.replace_pairs(change(data.pairs()))``.
    """
    lock = FileLock(folder / LOCK, timeout=_PATIENCE_S, is_singleton=True)
    is_first = not lock.is_locked
    try:
        with explained(folder / LOCK):
            lock.acquire()
    except Timeout:
        raise ValueError(
            f"the pairs in {label_of(folder)} are being written by another process; try again"
        ) from None
    except OSError as error:
        if getattr(error.__cause__, "errno", None) not in _UNSUPPORTED:
            raise
    try:
        yield
    finally:
        if is_first:
            with suppress(OSError):  # Windows deletes no file that is open
                (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def remove_left_lock(folder: Path) -> None:
    """Remove the lock's file if a stop has left it; one that is held stays."""
    if (folder / LOCK).exists():
        with suppress(ValueError, OSError), pairs_lock(folder):
            pass
