"""GELU in its tanh form, alone or written next to the attention output.

``y = x sigmoid(2 u)`` with ``u = sqrt(2/pi) (x + 0.044715 x^3)``: equal to the tanh form and free
of libdevice, which the interpreter lacks. Backward, with ``t = 2 sigmoid(2 u) - 1``:
``dy/dx = (1 + t) / 2 + x (1 - t^2) sqrt(2/pi) (1 + 0.134145 x^2) / 2``. Saved: x only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import for_flat
from .numerics import accumulator, cast
from .registration import register

ROOT = tl.constexpr(math.sqrt(2 / math.pi))
CUBE = tl.constexpr(0.044715)
# In products a constant stands right of the tensor: left of it, the interpreter of Triton 3.7
# makes the product a constant too, which no function of `tl` takes.


@triton.jit
def _gelu_fwd_kernel(
    attention_ptr, mlp_ptr, out_ptr,
    attention_stride_b, attention_stride_s, mlp_stride_b, mlp_stride_s, mlp_width,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1).to(tl.int64)
    out = out_ptr + (sample * tl.num_programs(0) + token) * (WIDTH + mlp_width)
    # The first programs of a row copy the attention output, the others activate.
    num_copies: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    part = tl.program_id(2)
    if part < num_copies:
        cols = part * BLOCK + tl.arange(0, BLOCK)
        source = attention_ptr + sample * attention_stride_b + token * attention_stride_s
        value = tl.load(source + cols, mask=cols < WIDTH)
        tl.store(out + cols, value, mask=cols < WIDTH)
    else:
        cols = (part - num_copies) * BLOCK + tl.arange(0, BLOCK)
        mask = cols < mlp_width
        source = mlp_ptr + sample * mlp_stride_b + token * mlp_stride_s
        x = tl.load(source + cols, mask=mask, other=0.0).to(ACC)
        y = x * tl.sigmoid((x + x * CUBE * x * x) * (2 * ROOT))
        tl.store(out + WIDTH + cols, cast(y, out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gelu_bwd_kernel(
    dy_ptr, x_ptr, dx_ptr, dy_stride_b, dy_stride_s, x_stride_b, x_stride_s, width,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < width
    row = dy_ptr + sample * dy_stride_b + token * dy_stride_s
    dy = tl.load(row + cols, mask=mask, other=0.0).to(ACC)
    row = x_ptr + sample * x_stride_b + token * x_stride_s
    x = tl.load(row + cols, mask=mask, other=0.0).to(ACC)
    t = 2 * tl.sigmoid((x + x * CUBE * x * x) * (2 * ROOT)) - 1
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + x * (3 * CUBE) * x)
    row = dx_ptr + (sample * tl.num_programs(0) + token) * width
    tl.store(row + cols, cast(dy * slope, dx_ptr.dtype.element_ty), mask=mask)


def _fake(attention: Tensor | None, mlp: Tensor) -> Tensor:
    width = 0 if attention is None else attention.shape[-1]
    return mlp.new_empty(*mlp.shape[:-1], width + mlp.shape[-1])  # [B, S, D + M]


def _launch(attention: Tensor | None, mlp: Tensor) -> Tensor:
    out = _fake(attention, mlp)
    batch, tokens, mlp_width = mlp.shape
    width = out.shape[-1] - mlp_width
    launch = for_flat(mlp_width)
    parts = triton.cdiv(width, launch.block) + triton.cdiv(mlp_width, launch.block)
    beside = mlp if attention is None else attention
    _gelu_fwd_kernel[(tokens, batch, parts)](
        beside, mlp, out, *beside.stride()[:2], *mlp.stride()[:2], mlp_width,
        WIDTH=width, BLOCK=launch.block, ACC=accumulator(mlp.dtype), num_warps=launch.num_warps,
    )  # fmt: skip
    return out


def _fake_bwd(dy: Tensor, x: Tensor) -> Tensor:
    del dy
    return x.new_empty(x.shape)  # [B, S, M]


def _launch_bwd(dy: Tensor, x: Tensor) -> Tensor:
    dx = _fake_bwd(dy, x)
    dy = dy if dy.stride(-1) == 1 else dy.contiguous()
    batch, tokens, width = x.shape
    launch = for_flat(width)
    _gelu_bwd_kernel[(tokens, batch, triton.cdiv(width, launch.block))](
        dy, x, dx, *dy.stride()[:2], *x.stride()[:2], width,
        BLOCK=launch.block, ACC=accumulator(x.dtype), num_warps=launch.num_warps,
    )  # fmt: skip
    return dx


forward = register("concat_gelu(Tensor? attention, Tensor mlp) -> Tensor", _launch, _fake)
backward = register("gelu_bwd(Tensor dy, Tensor x) -> Tensor", _launch_bwd, _fake_bwd)


class _ConcatGelu(torch.autograd.Function):
    """``(attention?, mlp)`` to one tensor."""

    @staticmethod
    def forward(ctx: Any, attention: Tensor | None, mlp: Tensor) -> Tensor:
        ctx.save_for_backward(mlp)
        ctx.width = 0 if attention is None else attention.shape[-1]
        return forward(attention, mlp)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (mlp,) = ctx.saved_tensors
        beside = dy[..., : ctx.width] if ctx.width and ctx.needs_input_grad[0] else None
        return beside, backward(dy[..., ctx.width :], mlp) if ctx.needs_input_grad[1] else None


def gelu_tanh(x: Tensor) -> Tensor:
    """Run the kernel; see :func:`kernels.gelu_tanh`."""
    return _ConcatGelu.apply(None, x)


def concat_gelu(attention: Tensor, mlp: Tensor) -> Tensor:
    """Run the kernel; see :func:`kernels.concat_gelu`."""
    return _ConcatGelu.apply(attention, mlp)
