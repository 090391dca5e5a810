"""What the tables of file formats are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

JSON, LINES, TENSORS, BINARY, TEXT = "json", "lines", "tensors", "binary", "text"
"""Kinds of contents: what a mutation may take for granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """One format. Example: ``file_formats()['conditions.jsonl'].read(folder)``."""

    kind: str
    file: str
    """The file that is changed, below the folder."""
    write: Callable[[Path], object]
    """Writes the valid files."""
    read: Callable[[Path], Any]
    """Reads them as the product does."""
    label: str = ""
    """What messages call it; empty: the file's name."""

    @property
    def name(self) -> str:
        """What its messages must hold."""
        return self.label or Path(self.file).name


class AddFormat(Protocol):
    """Adds a format to a table."""

    def __call__(
        self, kind: str, file: str, write: Any, read: Any, label: str = "", name: str = ""
    ) -> None: ...
