"""Block sizes and warps, as functions of shape alone.

Chosen from compiled code (registers, spills, 16-byte loads), not timed yet: `benchmarks/kernels` is
there to confirm or correct them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Launch:
    """Tile size along an axis, warps per program. Example: ``for_row(3072) == Launch(4096, 8)``."""

    block: int
    num_warps: int


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def for_row(width: int) -> Launch:
    """One row per program, masked up to a power of two; masked lanes move no bytes."""
    block = next_power_of_two(width)
    return Launch(block, min(max(block // 512, 1), 8))


def for_heads(num_heads: int, head_dim: int) -> Launch:
    """Heads of one token that a program handles at a time; 8 values (16 bytes of bf16) a thread."""
    block = min(next_power_of_two(num_heads), max(1024 // head_dim, 1))
    return Launch(block, min(max(block * head_dim // 256, 1), 4))


def for_flat(width: int) -> Launch:
    """Columns of one row per program where a row is split."""
    block = min(next_power_of_two(width), 1024)
    return Launch(block, min(max(block // 256, 1), 4))


def rows_per_program(tokens: int, is_summed: bool) -> int:
    """Rows one program goes through: several where it keeps a sum over them, else one."""
    return min(next_power_of_two(tokens), 32) if is_summed else 1
