"""Write weights, and copies of them: a stop at any moment leaves the old content or the new."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ...fill.io.writing import atomic_file, atomic_folder, copy_file


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file at once; several processes may write the same one.

    The same tensors and metadata make the same bytes.

    Raises:
        WriteError: The file cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(contiguous, temporary, metadata=metadata)
        if len(metadata or {}) > 1:
            _sort_metadata(temporary)


def replace_by_copy(source: Path, target: Path) -> None:
    """Replace a file or folder by a copy of another; a stop in between leaves one of them whole."""
    if not source.is_dir():
        copy_file(source, target)
        return
    with atomic_folder(target) as fresh:
        shutil.copytree(source, fresh, dirs_exist_ok=True)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a file in order: safetensors' own is another each time."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))
