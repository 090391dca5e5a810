"""What is in files, as a short text: not where they are, nor when they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

_PIECES = 128
_PIECE_BYTES = 1 << 16
"""So much of a file is read: all of a small one, evenly spread pieces of a large one."""


class Digest(Protocol):
    """A hash that is being made. Example: ``hashlib.blake2b(digest_size=8)``."""

    def update(self, data: bytes, /) -> None:
        """Take in more."""
        ...


def fingerprint_files(files: Iterable[Path], *settings: str) -> str:
    """Return 16 digits that follow from what is in files, in their order, and from some settings.

    Raises:
        OSError: A file is gone.
    """
    digest = hashlib.blake2b("|".join(settings).encode(), digest_size=8)
    add_files(digest, files)
    return digest.hexdigest()


def add_files(digest: Digest, files: Iterable[Path]) -> None:
    """Take size and contents of files into a hash; OSError if one is gone."""
    for file in files:
        _add_file(digest, file)


def _add_file(digest: Digest, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{size}|".encode())
    last = max(size - _PIECE_BYTES, 0)
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE_BYTES:
            digest.update(file.read())
            return
        for index in range(_PIECES):
            file.seek(last * index // (_PIECES - 1))
            digest.update(file.read(_PIECE_BYTES))
