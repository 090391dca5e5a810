"""Files and folders that are whole or not there, whatever stops the process or the machine.

A file is written beside its place, brought to the disk, and only then given its name; last, its
folder is brought to the disk. A folder is replaced by renames alone. In between they have hidden
names, by which the next writer knows and removes what a stop has left::

    .onereward-tmp-5f0a1c22-4711-9d3e    a file in the making, by process 4711 of a computer
    .onereward-new-checkpoint            a folder in the making
    .onereward-old-checkpoint            the folder that it replaces
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from safetensors import SafetensorError

from .json_text import MAX_LINE, label_of, parse_object, shorten

if TYPE_CHECKING:
    from PIL import Image

_FILE, _NEW, _OLD = ".onereward-tmp-", ".onereward-new-", ".onereward-old-"
_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "free some space and run again, or choose another drive",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "allow writing there, or choose another folder"
    ),
}
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What some network drives say when a folder is to be brought to the disk."""
_SYSTEM_CODE = re.compile(r"os error (\d+)")


class WriteError(OSError):
    """Something cannot be written: says what, why, and what to do."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system says when a file or folder cannot be written into a sentence.

    Raises:
        WriteError: The system or safetensors refused.
    """
    try:
        yield
    except WriteError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        code = getattr(error, "errno", None)
        if matched := _SYSTEM_CODE.search(str(error)):
            code = int(matched[1])
        reason = os.strerror(code) if code else str(error)
        remedy = _REMEDIES.get(code or 0, "check the disk and run again")
        raise WriteError(shorten(f"cannot write {label_of(path)} ({reason}); {remedy}")) from error


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, if they are not there; WriteError if that fails."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if not missing:
        return
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in reversed(missing):
            _sync_folder(path.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a place to write a file to; at the end it replaces the file, or leaves nothing.

    Raises:
        WriteError: It cannot be written.

    Example: ``with atomic_file(path) as temporary: temporary.write_bytes(data)``.
    """
    make_folder(path.parent)
    name = hashlib.blake2b(path.name.encode(), digest_size=4).hexdigest()
    temporary = path.with_name(f"{_FILE}{_computer()}-{os.getpid()}-{name}")
    with explained(path):
        _remove_orphans(path.parent)
        try:
            yield temporary
            _sync_file(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; at the end it replaces a folder, or leaves nothing.

    Only one process at a time may write to what is around it (see :func:`folder_lock`).

    Raises:
        WriteError: It cannot be written.

    Example: ``with atomic_folder(run / "checkpoint") as fresh: ...``.
    """
    make_folder(path.parent)
    fresh, old = path.with_name(_NEW + path.name), folder_set_aside(path)
    with explained(path):
        _recover_folder(path)
        try:
            fresh.mkdir()
            yield fresh
            _sync_tree(fresh)
            if path.exists():
                path.rename(old)
            fresh.rename(path)
        except BaseException:
            with suppress(OSError):
                _recover_folder(path, goes_on=False)
            raise
        try:
            _sync_folder(path.parent)
        finally:  # the new one is in its place, whatever the disk says
            remove(old)


def folder_set_aside(path: Path) -> Path:
    """Return what a folder is called while another takes its place."""
    return path.with_name(_OLD + path.name)


def recover(folder: Path) -> None:
    """Finish or undo what a stop has cut short right in a folder; only for who may write to it."""
    with explained(folder):
        for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
            if name.startswith((_NEW, _OLD)):
                _recover_folder(folder / name.removeprefix(_NEW).removeprefix(_OLD))
            elif name.startswith(_FILE):
                remove(folder / name)


def remove(path: Path) -> None:
    """Delete a file, or a folder with what is in it, if it is there; a power cut keeps it so."""
    with explained(path):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            return
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file at once: readers see the old text or the new one; WriteError as above."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_image(path: Path, image: Image.Image, kind: str = "PNG", **options: Any) -> None:
    """Write an image at once, in a format of Pillow's; WriteError as above."""
    with atomic_file(path) as temporary:
        image.save(temporary, kind, **options)


def copy_file(source: Path, target: Path) -> None:
    """Write a file at once that holds what another does; WriteError as above."""
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def append_line(path: Path, line: str, *, is_durable: bool = True) -> None:
    """Append a line, or nothing of it; unless it may be lost, it is on the disk after this.

    Raises:
        WriteError: It cannot be written.
    """
    is_new = not path.exists()
    with explained(path), path.open("ab", buffering=0) as file:
        start = os.fstat(file.fileno()).st_size
        try:
            data = memoryview(line.encode() + b"\n")
            while data:
                data = data[file.write(data) :]
            if is_durable:
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(start)
            raise
    if is_durable and is_new:
        with explained(path):
            _sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Bring a file to the disk, and its name; WriteError if that fails."""
    with explained(path):
        _sync_file(path)
        _sync_folder(path.parent)


def drop_torn_line(path: Path) -> None:
    """Cut off a line that a crash left unfinished; one that lacks its line break alone gets it."""
    tail = torn_line(path)
    if not tail:
        return
    with explained(path), path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        if _is_whole(tail):  # editors and other tools leave the last line break out
            file.write(b"\n")
        else:
            file.truncate(file.tell() - len(tail))
        file.flush()
        os.fsync(file.fileno())


def torn_line(path: Path) -> bytes:
    """Return the last line of a file if it is one of ours and has no line break; else nothing."""
    if not path.is_file():
        return b""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            file.seek(max(size - MAX_LINE, 0))
            _, line_break, tail = file.read().rpartition(b"\n")
    except OSError as error:
        raise OSError(f"{label_of(path)} cannot be read ({error.strerror})") from error
    is_ours = tail.startswith(b"{") and (line_break or size <= MAX_LINE)
    return tail if is_ours else b""


def _is_whole(line: bytes) -> bool:
    try:
        parse_object(line.decode("utf-8"))
    except ValueError:
        return False
    return True


def _recover_folder(path: Path, *, goes_on: bool = True) -> None:
    """Leave one folder of this name where a stop, or an error, has left parts of two."""
    fresh, old = path.with_name(_NEW + path.name), folder_set_aside(path)
    if old.exists() and not path.exists():  # the new one is whole before the old one moves
        (fresh if goes_on and fresh.exists() else old).rename(path)
    remove(fresh)
    remove(old)


@functools.cache
def _computer() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


@functools.lru_cache(maxsize=4096)
def _remove_orphans(folder: Path) -> None:
    """Remove files in the making whose process is gone; once, as this one leaves none."""
    for name in os.listdir(folder):
        if not name.startswith(_FILE):
            continue
        computer, process, *_ = name.removeprefix(_FILE).split("-")
        number = int(process) if process.isdecimal() else -1
        if computer == _computer() and (number == os.getpid() or not psutil.pid_exists(number)):
            remove(folder / name)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(parent, name))
        _sync_folder(Path(parent))
