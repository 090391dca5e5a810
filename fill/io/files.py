"""Text and JSON files; what a model folder holds, from configs and safetensors headers only."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that are damaged, no images, or far too large."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
INTEGER_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2}
INTEGER_BYTES |= {"U32": 4, "I32": 4, "U64": 8, "I64": 8}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a weights file. Example: ``TensorInfo('BF16', (3072, 384))``."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    """Position of its first byte in the file."""
    num_bytes: int = 0
    """Bytes it takes in the file."""

    @property
    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_text(path: Path) -> str:
    """Read a text file of the user's.

    Raises:
        ValueError: It is not UTF-8; names it.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); save it as UTF-8") from error


def write_text(path: Path, text: str) -> None:
    """Write a file at once: readers see the old text or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_records(path: Path, parse: Callable[[str], T]) -> list[T]:
    """Parse every line of a file that is not blank; without the file there are none.

    Raises:
        ValueError: A line is damaged; names file and line.
    """
    records = []
    lines = read_text(path).split("\n") if path.exists() else []
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(parse(line))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {index}: {error}") from error
    return records


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; download the complete model folder in diffusers format"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return values


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, and check that the file is whole.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no safetensors file, it is shorter than its header says, or its header
            contradicts itself.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download the complete model")
    # The header's JSON.
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"{path} is no safetensors file or is cut off; download it again")
        try:
            header: Any = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged header; download it again") from error
    # Tensors, metadata, and the size that they add up to.
    data = 8 + length
    try:
        metadata = {key: str(text) for key, text in header.pop("__metadata__", {}).items()}
        infos = {key: _info(entry, data) for key, entry in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} has a damaged header ({error}); download it again") from error
    end = max((info.start + info.num_bytes for info in infos.values()), default=data)
    if size != end:
        raise ValueError(
            f"{path} has {size:,} bytes but its header promises {end:,}; it is cut off or "
            "damaged, download it again"
        )
    return infos, metadata


def _info(entry: dict[str, Any], data: int) -> TensorInfo:
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    width = (FLOAT_BYTES | INTEGER_BYTES).get(entry["dtype"])
    if any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
        raise ValueError(f"{list(shape)} at {start} to {stop} are no whole numbers from 0 on")
    if not start <= stop or (width and stop - start != math.prod(shape) * width):
        raise ValueError(f"{list(shape)} of {entry['dtype']} cannot be {stop - start} bytes")
    return TensorInfo(entry["dtype"], shape, data + start, stop - start)


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a diffusers or transformers weights folder, sharded or not.

    Raises:
        FileNotFoundError: No weights.
        ValueError: Only pickled weights, or an index that leaves its folder.
    """
    index = sorted(folder.glob("*.safetensors.index.json"))
    if index:
        names: Iterable[str] = set(read_json(index[0]).get("weight_map", {}).values())
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index[0]} names a file outside its folder; do not use this model")
        return [folder / name for name in sorted(names)]
    return _single_file(folder)


def read_weights(folder: Path) -> dict[str, TensorInfo]:
    """Return all tensors of a diffusers or transformers weights folder, sharded or not.

    Raises:
        FileNotFoundError: No weights, or a shard is missing.
        ValueError: Only pickled weights, a damaged file, or an index that leaves its folder.
    """
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        tensors.update(read_header(file)[0])
    if not tensors:
        raise ValueError(f"{folder} has weights files without any tensor; download them again")
    return tensors


def _single_file(folder: Path) -> list[Path]:
    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise ValueError(
            f"{folder} has only pickled weights, which can run code when opened; get the "
            "safetensors version of this model"
        )
    raise FileNotFoundError(
        f"{folder} has no safetensors weights; download the complete model folder in "
        "diffusers format"
    )


def tensor_bytes(tensors: dict[str, TensorInfo], float_bytes: int) -> dict[str, int]:
    """Return the memory of each tensor once floating-point values are ``float_bytes`` wide."""
    return {
        name: t.numel * (float_bytes if t.dtype in FLOAT_BYTES else 8)
        for name, t in tensors.items()
    }


def num_bytes(tensors: dict[str, TensorInfo], float_bytes: int) -> int:
    """Return the memory of all of them."""
    return sum(tensor_bytes(tensors, float_bytes).values())
