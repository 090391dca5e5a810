"""Counts every file operation below a folder, and makes one of them fail as a machine would.

The shim stands at the boundary between Python and the system: ``open``, the ``os`` functions and
the one native writer, that of safetensors. It is put in place once, before any other import, and
does nothing until it is armed. An operation gets a number, from 0 on; a fault happens at one::

    shim = FileShim.install()
    shim.arm(Path("/tmp/run"), Fault("kill", 7))
    ...
    shim.log[3].text(root)  # "rename run/.a.tmp -> run/a"

Not seen: what C code writes into an open file by itself (Pillow's JPEG encoder does).
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .durable_state import DurableState

KILL, HALF, POWER = "kill", "half", "power"
"""Killed before the operation; killed when half of the bytes were written; the power fails."""
FULL, UNREADABLE = "full", "unreadable"
"""The disk is full from here on; reading, or bringing data to the disk, fails this once."""
DATA = ("create", "write", "mkdir", "tensors")
"""What a full disk refuses."""
READS = ("open", "read", "list", "tensors?")
SYNCS = ("fsync",)


@dataclass(frozen=True)
class FileOperation:
    """One operation on a file or folder. Example: ``FileOperation("rename", "/a.tmp", "/a")``."""

    kind: str
    path: str
    target: str = ""

    def text(self, root: Path) -> str:
        names = [self.path, self.target] if self.target else [self.path]
        return f"{self.kind} " + " -> ".join(os.path.relpath(name, root) for name in names)


@dataclass(frozen=True)
class Fault:
    """What happens at which operation. Example: ``Fault(KILL, 12)``."""

    kind: str
    at: int


class FileShim:
    """The operations of this process below one folder; what is elsewhere passes by."""

    def __init__(self) -> None:
        self.root = ""
        self.fault: Fault | None = None
        self.log: list[FileOperation] = []
        self.durable: DurableState | None = None
        self.last_words: Path | None = None
        """Where a kill writes down at which operation it came."""
        self.is_armed = False

    @classmethod
    def install(cls) -> FileShim:
        shim = cls()
        _wrap_open(shim)
        _wrap_os(shim)
        _wrap_safetensors(shim)
        return shim

    def arm(self, root: Path, fault: Fault | None = None, state: Path | None = None) -> None:
        """Begin to count below ``root``; ``state``: where a power cut leaves what is durable."""
        self.root, self.fault, self.log = str(root) + os.sep, fault, []
        self.durable = DurableState(root, state) if state else None
        self.is_armed = True

    def watches(self, path: object) -> str:
        """Return the absolute path if it is below the root, else nothing."""
        if not self.is_armed:
            return ""
        try:
            name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
            absolute = os.path.abspath(os.fsdecode(name))  # type: ignore[arg-type]
        except (OSError, TypeError, ValueError):
            return ""
        return absolute if (absolute + os.sep).startswith(self.root) else ""

    def before(self, kind: str, path: str, target: str = "", half: Any = None) -> None:
        """Number an operation that is about to happen, and let its fault happen.

        Args:
            kind: What it is.
            path: On what.
            target: Where a rename or a link leads.
            half: Does half of it.
        """
        index = len(self.log)
        self.log.append(FileOperation(kind, path, target))
        fault = self.fault
        if fault is None or index < fault.at:
            return
        is_here = index == fault.at
        if fault.kind == FULL:
            # It stays full, and of the first file half has found room.
            if kind in DATA or (is_here and kind in ("rename", "link")):
                if half is not None and is_here:
                    half()
                self._fail(kind, path, errno.ENOSPC)
        elif is_here and fault.kind == UNREADABLE:
            if kind in (*READS, *SYNCS):
                self._fail(kind, path, errno.EIO)
        elif is_here:
            if fault.kind == HALF and half is not None:
                half()
            self._die()

    def _die(self) -> None:
        assert self.fault is not None, "a fault is what kills"
        if self.fault.kind == POWER and self.durable is not None:
            self.durable.write()
        if self.last_words is not None:
            with io.FileIO(self.last_words, "w") as file:
                file.write(self.log[-1].text(Path(self.root)).encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def after(self, kind: str, path: str, target: str = "") -> None:
        """Note what an operation did, for the state that a power cut leaves."""
        if self.durable is not None:
            self.durable.note(kind, path, target)

    def _fail(self, kind: str, path: str, code: int) -> None:
        if kind.startswith("tensors"):
            from safetensors import SafetensorError

            raise SafetensorError(f"I/O error: {os.strerror(code)} (os error {code})")
        if kind in ("create", "open", "mkdir", "rename", "list"):
            raise OSError(code, os.strerror(code), path)
        raise OSError(code, os.strerror(code))


class _Raw(io.FileIO):
    """A file of which every read and write is counted."""

    shim: FileShim
    watched: str

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        real = super().write
        self.shim.before("write", self.watched, half=lambda: real(view[: len(view) // 2]))
        written = real(view)
        self.shim.after("write", self.watched)
        return written

    def truncate(self, size: int | None = None, /) -> int:
        self.shim.before("truncate", self.watched)
        result = super().truncate(size)
        self.shim.after("write", self.watched)
        return result

    def readinto(self, buffer: Any, /) -> int:
        self.shim.before("read", self.watched)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.shim.before("read", self.watched)
        return super().readall()


def _wrap_open(shim: FileShim) -> None:
    real_open = io.open

    def open_counted(  # noqa: PLR0913
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        watched = shim.watches(file)
        if not watched:
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        plain = mode.replace("b", "").replace("t", "")
        writes = any(letter in plain for letter in "wax")
        kind = "append" if "a" in plain and os.path.exists(file) else "create"
        if not isinstance(file, int):
            shim.before(kind if writes else "open", watched)
        raw = _Raw(file, plain, closefd, opener)
        raw.shim, raw.watched = shim, watched
        if writes and not isinstance(file, int):
            shim.after(kind, watched)
        if "b" in mode and buffering == 0:
            return raw
        updates = "+" in plain
        buffered: Any = (
            io.BufferedRandom(raw)
            if updates
            else io.BufferedWriter(raw)
            if writes
            else io.BufferedReader(raw)
        )
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline)
        text.mode = mode  # type: ignore[misc]
        return text

    builtins.open = io.open = open_counted


def _wrap_os(shim: FileShim) -> None:
    shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
    one_path = {
        **{"mkdir": "mkdir", "rmdir": "rmdir", "unlink": "unlink", "remove": "unlink"},
        **{"chmod": "chmod", "utime": "utime", "truncate": "truncate"},
        **{"listdir": "list", "scandir": "list"},
    }
    for name, kind in one_path.items():
        setattr(os, name, _count_one_path(shim, getattr(os, name), kind))
    for name, kind in {"rename": "rename", "replace": "rename", "link": "link"}.items():
        setattr(os, name, _count_two_paths(shim, getattr(os, name), kind))
    _wrap_descriptors(shim)


def _count_one_path(shim: FileShim, real: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def counted(path: Any = ".", *args: Any, **options: Any) -> Any:
        watched = shim.watches(_in_folder(path, options.get("dir_fd")))
        if watched:
            shim.before(kind, watched)
        result = real(path, *args, **options)
        if watched:
            shim.after(kind, watched)
        return result

    return counted


def _count_two_paths(shim: FileShim, real: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def counted(source: Any, target: Any, **options: Any) -> None:
        names = shim.watches(source), shim.watches(target)
        if names[1]:
            shim.before(kind, *names)
        real(source, target, **options)
        if names[1]:
            shim.after(kind, *names)

    return counted


def _in_folder(path: Any, dir_fd: int | None) -> Any:
    if dir_fd is None:
        return path
    return os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), os.fsdecode(path))


def _wrap_descriptors(shim: FileShim) -> None:
    real_open, real_write = os.open, os.write

    def open_counted(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        creates = flags & os.O_CREAT and dir_fd is None
        watched = shim.watches(path) if creates else ""
        if watched:
            shim.before("create", watched)
        descriptor = real_open(path, flags, mode, dir_fd=dir_fd)
        if watched:
            shim.after("create", watched)
        return descriptor

    def write_counted(descriptor: int, data: Any) -> int:
        watched = shim.watches(descriptor)
        if watched:
            half = memoryview(data)[: len(data) // 2]
            shim.before("write", watched, half=lambda: real_write(descriptor, half))
        written = real_write(descriptor, data)
        if watched:
            shim.after("write", watched)
        return written

    real_sync = os.fsync

    def sync_counted(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        watched = shim.watches(descriptor)
        if not watched:
            return real_sync(descriptor)
        # The machine does not really fail, so nothing has to reach its disk.
        shim.before("fsync", watched)
        shim.after("fsync", watched)
        return None

    os.open, os.write, os.fsync = open_counted, write_counted, sync_counted


def _wrap_safetensors(shim: FileShim) -> None:
    import safetensors
    import safetensors.torch

    writer: Any = safetensors.torch
    real_write, real_read = writer.serialize_file, safetensors.safe_open

    def write_counted(tensors: Any, filename: Any, metadata: Any = None) -> None:
        watched = shim.watches(filename)

        def half() -> None:
            real_write(tensors, filename, metadata=metadata)
            with io.FileIO(filename, "r+") as file:
                file.truncate(os.path.getsize(filename) // 2)

        if watched:
            shim.before("tensors", watched, half=half)
        real_write(tensors, filename, metadata=metadata)
        if watched:
            shim.after("create", watched)
            shim.after("write", watched)

    def read_counted(filename: Any, *args: Any, **options: Any) -> Any:
        watched = shim.watches(filename)
        if watched:
            shim.before("tensors?", watched)
        return real_read(filename, *args, **options)

    writer.serialize_file = write_counted
    writer.safe_open = safetensors.safe_open = read_counted
