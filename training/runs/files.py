"""Write files and folders atomically: a stop at any moment leaves the old content or the new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file at once; several processes may write the same one.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, temporary, metadata=metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        raise OSError(f"cannot write {path} ({error}); free some space and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a file, or a folder with what is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_by_copy(source: Path, target: Path) -> None:
    """Replace a file or folder by a copy of another; a stop in between leaves one of them whole."""
    fresh = target.with_name(target.name + ".new")
    remove(fresh)
    (shutil.copytree if source.is_dir() else shutil.copy)(source, fresh)
    if target.is_dir():
        remove(target)
    fresh.replace(target)
