"""A short digest of what is in files, whatever their paths and dates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

_CHUNKS = 128
_CHUNK_BYTES = 1 << 16
"""What of a file is read: all of a small one, evenly spread chunks of a large one."""


class Digest(Protocol):
    """A hash in progress. Example: ``hashlib.blake2b(digest_size=8)``."""

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
    last = max(size - _CHUNK_BYTES, 0)
    with path.open("rb") as file:
        if size <= _CHUNKS * _CHUNK_BYTES:
            digest.update(file.read())
            return
        for index in range(_CHUNKS):
            file.seek(last * index // (_CHUNKS - 1))
            digest.update(file.read(_CHUNK_BYTES))
