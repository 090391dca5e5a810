"""GGUF files through the ``gguf`` package: names, types and offsets of tensors, no weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ..io.files import TensorInfo
from ..io.json_text import shorten

MAGIC = b"GGUF"
PLAIN = ("F32", "F16", "BF16", "F64")
"""Types of GGUF that are not quantised, named as in safetensors."""
MAX_ENTRIES = 1 << 22
"""Of a list in the metadata; the largest are vocabularies, of some hundred thousand words."""


def require_gguf() -> Any:
    """Import the package; raise RuntimeError with what to install if it is missing."""
    try:
        import gguf
    except ImportError as error:
        raise RuntimeError(
            "reading GGUF files needs the package gguf; install it with "
            "`python -m pip install gguf` into ComfyUI's Python"
        ) from error
    return gguf


def read_gguf_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors (shapes as in PyTorch) and the texts of a GGUF file's metadata.

    Raises:
        ValueError: Damaged, cut off, or with a quantisation that cannot be expanded.
        RuntimeError: The ``gguf`` package is not installed.
    """
    gguf = require_gguf()
    try:
        reader = _reader_class()(str(path))
        metadata = {
            key: str(value.contents())
            for key, value in reader.fields.items()
            if value.types and value.types[0] == gguf.GGUFValueType.STRING
        }
        tensors = {tensor.name: _info(tensor) for tensor in reader.tensors}
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        is_text = isinstance(error, UnicodeError)
        reason = "a name in it is no text" if is_text else shorten(str(error), 100)
        raise ValueError(
            f"{path.name} is damaged, cut off or of an unknown GGUF type ({reason}); download it "
            "again, or in another quantisation"
        ) from error
    for key, info in tensors.items():
        check_kind(path.name, key, info.dtype)
    return tensors, metadata


@functools.cache
def _reader_class() -> Any:
    """Return the package's reader, which otherwise reads on for years if a length is a lie."""
    gguf = require_gguf()

    class Reader(gguf.GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **kwargs: Any) -> Any:
            entries = super()._get(offset, dtype, count, *args, **kwargs)
            if len(entries) != int(count):
                raise ValueError("it ends too early")
            return entries

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == gguf.GGUFValueType.ARRAY:
                # Behind the four bytes that give the type of its entries.
                entries = int(self._get(orig_offs + 4, "uint64")[0])
                if entries > MAX_ENTRIES:
                    raise ValueError(f"a list of {entries:,} entries")
            return super()._get_field_parts(orig_offs, raw_type)

    return Reader


def _info(tensor: Any) -> TensorInfo:
    return TensorInfo(
        dtype=str(tensor.tensor_type.name),
        shape=tuple(int(n) for n in reversed(tensor.shape.tolist())),
        start=int(tensor.data_offset),
        num_bytes=int(tensor.n_bytes),
    )


def check_kind(name: str, key: str, kind: str) -> None:
    """Raise ValueError if a tensor's type cannot be expanded."""
    readable = {t.name for t in expanders()} | set(PLAIN)
    if kind not in readable:
        raise ValueError(
            f"{name} holds {key} as {kind}, which cannot be expanded here; get one of: "
            f"{', '.join(sorted(readable))}"
        )


def expanders() -> dict[Any, Any]:
    """Return diffusers' expansion of every GGUF type that it supports, by type."""
    require_gguf()
    from diffusers.quantizers.gguf.utils import dequantize_functions

    return dequantize_functions
