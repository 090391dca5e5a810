"""What a model folder holds, from indices and safetensors headers only; text written at once."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .json_text import label_of, parse_object, quote, read_json, shorten
from .names import check_file_name
from .writing import write_text as write_text

if TYPE_CHECKING:
    from torch import Tensor

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that are damaged, no images, or far too large."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
INTEGER_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2}
INTEGER_BYTES |= {"U32": 4, "I32": 4, "U64": 8, "I64": 8}
OTHER_TYPES = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
"""Further types of the format, which nothing here reads."""
MAX_AXES, MAX_AXIS = 16, 1 << 48
"""Of a tensor's shape."""


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


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, and check that the file is whole.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no safetensors file, it is shorter than its header says, or its header
            contradicts itself.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{label_of(path)} is missing; download the complete model")
    # The header's JSON.
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{label_of(path)} is no safetensors file or is cut off; download it again"
            )
        data = file.read(length)
    # Tensors, metadata, and the size that they add up to.
    try:
        header = parse_object(_decoded(data))
        metadata = _metadata(header.pop("__metadata__", {}))
        infos = {key: _info(key, entry, 8 + length) for key, entry in header.items()}
    except ValueError as error:
        raise ValueError(
            f"{label_of(path)} has a damaged header ({shorten(str(error), 120)}); download it again"
        ) from error
    end = max((info.start + info.num_bytes for info in infos.values()), default=8 + length)
    if size != end:
        raise ValueError(
            f"{label_of(path)} has {size:,} bytes but its header promises {end:,}; it is cut off "
            "or damaged, download it again"
        )
    _check_order(path, infos, 8 + length)
    return infos, metadata


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start:,} of it is no text in UTF-8") from None


def _metadata(values: Any) -> dict[str, str]:
    if not isinstance(values, dict):
        raise ValueError(f"__metadata__ is {quote(values)}, but an object of texts is expected")
    return {key: str(text) for key, text in values.items()}


def _info(key: str, entry: Any, data: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise ValueError(f"{quote(key)} is {quote(entry)}, which is no tensor")
    kind, shape, offsets = (entry.get(name) for name in ("dtype", "shape", "data_offsets"))
    widths = FLOAT_BYTES | INTEGER_BYTES
    if not isinstance(kind, str) or not (kind in widths or kind in OTHER_TYPES):
        raise ValueError(f"{quote(key)} has the unknown type {quote(kind)}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not _are_whole(shape):
        raise ValueError(f"{quote(key)} has {quote(shape)} as its shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not _are_whole(offsets):
        raise ValueError(f"{quote(key)} has {quote(offsets)} as its place in the file")
    size, width = offsets[1] - offsets[0], widths.get(kind)
    if size < 0 or (width and size != math.prod(shape) * width):
        raise ValueError(f"{quote(key)}: {quote(shape)} of {kind} cannot be {size} bytes")
    return TensorInfo(kind, tuple(shape), data + offsets[0], size)


def _are_whole(numbers: list[Any]) -> bool:
    return all(type(number) is int and 0 <= number <= MAX_AXIS for number in numbers)


def _check_order(path: Path, infos: Mapping[str, TensorInfo], end: int) -> None:
    """Raise ValueError unless every tensor begins where the one before it ends."""
    for key, info in sorted(infos.items(), key=lambda entry: (entry[1].start, entry[1].num_bytes)):
        if info.start != end:
            raise ValueError(
                f"{label_of(path)} has a damaged header ({quote(key)} does not begin where another "
                "tensor ends); download it again"
            )
        end += info.num_bytes


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file; raises as :func:`read_header`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        read_header(path)
        return load_file(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{label_of(path)} cannot be read ({reason}); check the disk") from error
    except SafetensorError as error:
        raise ValueError(
            f"{label_of(path)} cannot be read ({shorten(str(error), 120)}); download it again"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a diffusers or transformers weights folder, sharded or not.

    Raises:
        FileNotFoundError: No weights.
        ValueError: Only pickled weights, or an index that leaves its folder.
    """
    index = sorted(folder.glob("*.safetensors.index.json"))
    if index:
        return [folder / name for name in sorted(_shard_names(index[0]))]
    return _single_file(folder)


def _shard_names(index: Path) -> set[str]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
        raise ValueError(f"{label_of(index)} lists no files of weights; download it again")
    names = set(shards.values())
    for name in names:
        try:
            check_file_name(name if Path(name).name == name else "")
        except ValueError:
            raise ValueError(
                f"{label_of(index)} names {quote(name)}, which is no file in its folder or outside "
                "its folder; do not use this model"
            ) from None
    return names


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
        raise ValueError(
            f"{label_of(folder)} has weights files without any tensor; download them again"
        )
    return tensors


def _single_file(folder: Path) -> list[Path]:
    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise ValueError(
            f"{label_of(folder)} has only pickled weights, which can run code when opened; get the "
            "safetensors version of this model"
        )
    raise FileNotFoundError(
        f"{label_of(folder)} has no safetensors weights; download the complete model folder in "
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
