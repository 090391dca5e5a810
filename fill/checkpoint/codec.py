"""From the bytes of a file to numbers: plain types, fp8 and the block formats of GGUF.

``packed`` is always uint8 ``[rows, bytes per row]``: integers are left alone by everything that
casts a model, and fp8 as a data type would be cast by ``module.to(dtype)``.
"""

from __future__ import annotations

import functools

import torch

from .gguf import expanders, require_gguf

PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
_CASTING_DEVICES = ("cpu", "cuda")
"""Where PyTorch itself turns fp8 into wider types; elsewhere a table of all 256 values does."""


def is_readable(kind: str, is_gguf: bool) -> bool:
    """Tell whether tensors of this type can be expanded (GGUF's own types were checked before)."""
    return is_gguf or kind in PLAIN or kind in FP8


def is_quantised(kind: str) -> bool:
    """Tell whether weights of this type stay packed in memory."""
    return kind not in PLAIN


def expand(
    kind: str, packed: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the values ``[rows, columns]`` of packed rows.

    Args:
        kind: Type as the file names it, such as ``BF16``, ``F8_E4M3``, ``Q4_K``.
        packed: uint8 ``[rows, bytes per row]``.
        dtype: Of the result; everything before it is computed in float32 and rounded once.
        scale: float32, one value or ``[rows, 1]``; only scaled fp8 has one.
    """
    if kind in PLAIN:
        return packed.view(PLAIN[kind]).to(dtype)
    values = _fp8(kind, packed, dtype, scale) if kind in FP8 else _gguf(kind, packed)
    return values.to(dtype)


def _fp8(
    kind: str, packed: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor | None
) -> torch.Tensor:
    # Unscaled fp8 is exact in every wider type, so it skips float32.
    wide = dtype if scale is None else torch.float32
    if packed.device.type in _CASTING_DEVICES:
        values = packed.view(FP8[kind]).to(wide)
    else:
        values = _fp8_table(kind).to(packed.device, wide)[packed.int()]
    return values if scale is None else values * scale


@functools.cache
def _fp8_table(kind: str) -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).view(FP8[kind]).float()


def _gguf(kind: str, packed: torch.Tensor) -> torch.Tensor:
    gguf = require_gguf()
    number = gguf.GGMLQuantizationType[kind]
    block_size, type_size = gguf.GGML_QUANT_SIZES[number]
    blocks = packed.reshape(-1, type_size)
    values = expanders()[number](blocks, block_size, type_size, torch.float32)
    return values.reshape(packed.shape[0], -1)
