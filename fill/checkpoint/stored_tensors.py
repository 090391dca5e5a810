"""What a weights file holds, known from its header alone, and its bytes, read tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from ..io.files import TensorInfo, read_header
from .gguf import MAGIC as GGUF_MAGIC
from .gguf import read_gguf_header

SAFETENSORS_ENDS = (".safetensors", ".sft")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<end>(\.\w+)+)")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor and where its bytes are. Example: ``checkpoint.tensors['img_in.weight'].rows``."""

    info: TensorInfo
    file: Path

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.info.shape[0] if self.info.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry of the first axis; quantised rows are whole blocks."""
        return self.info.num_bytes // max(self.rows, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All tensors of a model's files. Example: ``open_checkpoint(path).shape('img_in.weight')``."""

    path: Path
    """The file that was chosen."""
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    is_gguf: bool
    stamps: Mapping[Path, tuple[int, int]] = field(repr=False)
    """Size and time of change of every file when its header was read."""

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.tensors[key].info.shape

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Open the files for reading.

        Raises:
            ValueError: A file has changed since its header was read, or changes meanwhile.
        """
        self._check_unchanged()
        with ExitStack() as stack:
            files = {path: stack.enter_context(path.open("rb")) for path in self.stamps}
            self._check_unchanged()
            yield Reader(files)
            self._check_unchanged()

    def _check_unchanged(self) -> None:
        for path, stamp in self.stamps.items():
            if not path.is_file() or _stamp(path) != stamp:
                raise ValueError(
                    f"{path.name} was changed while it was in use; wait until it is completely "
                    "written and run again"
                )


class Reader:
    """Reads rows of tensors into memory of their own.

    Reading beats mapping here: a mapped file that is cut short ends the whole process, and only
    what a layer needs is ever in memory beside the model.

    Example: ``with checkpoint.reading() as reader: reader.rows(stored, 0, stored.rows)``.
    """

    def __init__(self, files: Mapping[Path, BinaryIO]) -> None:
        self._files = files

    def rows(self, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        """Return the bytes of rows ``start`` to ``stop``: uint8, ``[stop - start, row_bytes]``.

        Raises:
            ValueError: The file ends too early.
        """
        size = (stop - start) * stored.row_bytes
        buffer = torch.empty(size, dtype=torch.uint8)
        file = self._files[stored.file]
        file.seek(stored.info.start + start * stored.row_bytes)
        if file.readinto(memoryview(buffer.numpy())) != size:  # type: ignore[attr-defined]
            raise ValueError(f"{stored.file.name} ends too early; download it again")
        return buffer.reshape(stop - start, stored.row_bytes)


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the header of a safetensors or GGUF file, or of all shards if it is one of several.

    Raises:
        FileNotFoundError: It is not there, or a shard is missing.
        ValueError: Neither safetensors nor GGUF, damaged, or of an unknown type.
    """
    # The format.
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; choose a file that exists")
    with path.open("rb") as file:
        is_gguf = file.read(4) == GGUF_MAGIC
    if not is_gguf and path.suffix not in SAFETENSORS_ENDS:
        raise ValueError(
            f"{path.name} is neither safetensors nor GGUF; other formats can run code when "
            "opened, so get the safetensors version"
        )
    # The headers of all shards.
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    files = _shards(path)
    for file in files:
        infos, texts = read_gguf_header(file) if is_gguf else read_header(file)
        if twice := set(infos) & set(tensors):
            raise ValueError(
                f"{file.name} repeats {min(twice)}: its shards belong to different models"
            )
        tensors.update({key: StoredTensor(info, file) for key, info in infos.items()})
        metadata.update(texts)
    if not tensors:
        raise ValueError(f"{path.name} holds no tensors; download it again")
    return Checkpoint(
        path=path,
        tensors=tensors,
        metadata=metadata,
        is_gguf=is_gguf,
        stamps={file: _stamp(file) for file in files},
    )


def unlisted_file(folder: Path) -> Path | None:
    """Return weights that libraries do not find in a folder by themselves; None if they find some.

    These are variants, as ``model.fp16.safetensors``, of which bf16 goes first, and shards without
    an index, of which any one stands for all.
    """
    plain = ("diffusion_pytorch_model.safetensors", "model.safetensors")
    if any((folder / name).is_file() for name in plain) or any(folder.glob("*.index.json")):
        return None
    files = folder.glob("*.safetensors")
    return min(files, key=lambda f: ("bf16" not in f.name, f.name), default=None)


def _shards(path: Path) -> list[Path]:
    match = SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    total = int(match["total"])
    names = [
        f"{match['stem']}-{number:05d}-of-{total:05d}{match['end']}"
        for number in range(1, total + 1)
    ]
    files = [path.with_name(name) for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise FileNotFoundError(
            f"{path.name} is one of {total} shards, but {len(missing)} of them are missing "
            f"({', '.join(missing[:3])}); put all shards into one folder"
        )
    return files


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
