"""Casts shared by the kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """Return the type a kernel computes in: float32, or float64 for float64 data."""
    return tl.float64 if dtype is torch.float64 else tl.float32


@triton.jit
def cast(x, dtype: tl.constexpr):
    """Round to the storage type, to nearest even.

    The interpreter truncates float32 to bfloat16, so there the rounding is done on the bits.
    """
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = bits.to(tl.float32, bitcast=True)
    return x.to(dtype)
