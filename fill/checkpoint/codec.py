"""From the bytes of a file to numbers: plain types, fp8 and the block formats of GGUF.

``packed`` is always uint8 ``[rows, bytes per row]``: integers are left alone by everything that
casts a model, and fp8 as a data type would be cast by ``module.to(dtype)``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util

import torch

from .gguf import expanders, require_gguf

PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
NF4, NF4_BLOCK = "NF4", 64
"""Two values per byte, the first in the upper half; a scale for every 64 of a matrix's values."""
_NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Source: QLoRA (arXiv 2305.14314), appendix E."""
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
        scale: float32; beside fp8 and plain types ``[rows, 1]`` or none, of NF4 one per 64 values.
    """
    if kind in PLAIN:
        values = packed.view(PLAIN[kind])
        return values.to(dtype) if scale is None else (values.float() * scale).to(dtype)
    if kind == NF4:
        assert scale is not None, "NF4 is scaled always"
        return _nf4(packed, scale, dtype)
    values = _fp8(kind, packed, dtype, scale) if kind in FP8 else _gguf(kind, packed)
    return values.to(dtype)


def nf4_codes(values: torch.Tensor) -> torch.Tensor:
    """Return the index, 0 to 15, of the NF4 value that is nearest to each of -1..1; uint8."""
    levels = torch.tensor(_NF4_VALUES, device=values.device)
    borders = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(values, borders, out_int32=True).to(torch.uint8)


def _fp8(
    kind: str, packed: torch.Tensor, dtype: torch.dtype, scale: torch.Tensor | None
) -> torch.Tensor:
    # Unscaled fp8 is exact in every wider type, so it skips float32.
    wide = dtype if scale is None else torch.float32
    if packed.device.type in _CASTING_DEVICES:
        values = packed.view(FP8[kind]).to(wide)
    else:
        values = _fp8_table(kind).to(packed.device, wide)[packed.int()]
    return values if scale is None else values.mul_(scale)


@functools.cache
def _fp8_table(kind: str) -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).view(FP8[kind]).float()


def _gguf(kind: str, packed: torch.Tensor) -> torch.Tensor:
    gguf = require_gguf()
    kind_id = gguf.GGMLQuantizationType[kind]
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind_id]
    blocks = packed.reshape(-1, type_size)
    values = expanders()[kind_id](blocks, block_size, type_size, torch.float32)
    return values.reshape(packed.shape[0], -1)


def _nf4(packed: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if packed.is_cuda and _has_bitsandbytes():
        # One kernel in place of four passes: the same layout, the same values.
        operation, shape = torch.ops.bitsandbytes.dequantize_4bit, (len(scale), NF4_BLOCK)
        values = operation(packed.view(-1, 1), scale, NF4_BLOCK, "nf4", shape, dtype)
    else:
        pairs = _nf4_pairs().to(packed.device)[packed.int()]
        values = pairs.view(-1, NF4_BLOCK).mul_(scale[:, None]).to(dtype)
    return values.view(packed.shape[0], -1)


@functools.cache
def _nf4_pairs() -> torch.Tensor:
    """Return the two values of every byte, ``[256, 2]``."""
    values = torch.tensor(_NF4_VALUES)
    return torch.cartesian_prod(values, values)


@functools.cache
def _has_bitsandbytes() -> bool:
    if importlib.util.find_spec("bitsandbytes") is None:
        return False
    importlib.import_module("bitsandbytes")  # which registers its operations
    return True
