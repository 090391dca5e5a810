"""Gated residual and modulated LayerNorm in one pass over the rows, or either alone.

``h = residual + gate update``, rounded to the storage type because it is the next residual, then
``xh = (h - mean) r``, ``y = xh (1 + scale) + shift``. Backward with dh (from the residual path) and
dy: ``g = dy (1 + scale)``, ``d = dh + r (g - mean(g) - xh mean(g xh))``, d residual = d,
d update = gate d, and per sample d gate = sum(d update), d scale = sum(dy xh), d shift = sum(dy).
Saved: h, the vectors, and update only if the gate needs a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import for_row, rows_per_program
from .numerics import accumulator, cast
from .reference import MAX_FP16, Pair
from .registration import register

LIMIT = tl.constexpr(MAX_FP16)


@triton.jit
def _adaln_fwd_kernel(
    residual_ptr, update_ptr, gate_ptr, scale_ptr, shift_ptr, h_ptr, y_ptr,
    residual_stride_b, residual_stride_s, update_stride_b, update_stride_s,
    gate_stride, scale_stride, shift_stride, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
    HAS_UPDATE: tl.constexpr, HAS_NORM: tl.constexpr, CLAMP: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1).to(tl.int64)
    out = (sample * tl.num_programs(0) + token) * WIDTH
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    source = residual_ptr + sample * residual_stride_b + token * residual_stride_s
    h = tl.load(source + cols, mask=mask, other=0.0).to(ACC)
    # The gated residual, rounded.
    if HAS_UPDATE:
        source = update_ptr + sample * update_stride_b + token * update_stride_s
        update = tl.load(source + cols, mask=mask, other=0.0).to(ACC)
        gate = tl.load(gate_ptr + sample * gate_stride + cols, mask=mask, other=0.0).to(ACC)
        h += gate * update
        if CLAMP:
            # Comparisons, because tl.minimum would turn NaN into a number.
            h = tl.where(h > LIMIT, LIMIT, tl.where(h < -LIMIT, -LIMIT, h))
        stored = cast(h, h_ptr.dtype.element_ty)
        tl.store(h_ptr + out + cols, stored, mask=mask)
        h = stored.to(ACC)
    # Its modulated LayerNorm.
    if HAS_NORM:
        centred = tl.where(mask, h - tl.sum(h, axis=0) / WIDTH, 0.0)
        r = tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + eps)
        scale = tl.load(scale_ptr + sample * scale_stride + cols, mask=mask, other=0.0).to(ACC)
        shift = tl.load(shift_ptr + sample * shift_stride + cols, mask=mask, other=0.0).to(ACC)
        y = centred * r * (1 + scale) + shift
        tl.store(y_ptr + out + cols, cast(y, y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _adaln_bwd_kernel(
    dh_ptr, dy_ptr, h_ptr, update_ptr, gate_ptr, scale_ptr,
    d_residual_ptr, d_update_ptr, d_gate_ptr, d_scale_ptr, d_shift_ptr,
    dh_stride_b, dh_stride_s, dy_stride_b, dy_stride_s, h_stride_b, h_stride_s,
    update_stride_b, update_stride_s, gate_stride, scale_stride, tokens, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
    HAS_UPDATE: tl.constexpr, HAS_NORM: tl.constexpr, CLAMP: tl.constexpr,
    NEEDS_GATE: tl.constexpr, NEEDS_NORM: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    if HAS_UPDATE:
        gate = tl.load(gate_ptr + sample * gate_stride + cols, mask=mask, other=0.0).to(ACC)
    if HAS_NORM:
        scale = tl.load(scale_ptr + sample * scale_stride + cols, mask=mask, other=0.0).to(ACC)
    d_gate = tl.zeros((BLOCK,), dtype=ACC)
    d_scale = tl.zeros((BLOCK,), dtype=ACC)
    d_shift = tl.zeros((BLOCK,), dtype=ACC)
    # Row by row; sums over rows stay in registers.
    for i in range(ROWS):
        token = (group * ROWS + i).to(tl.int64)
        # One comparison: the interpreter of Triton 3.9 makes integers of a block `and` a scalar.
        live = cols < tl.where(token < tokens, WIDTH, 0)
        out = (sample * tokens + token) * WIDTH + cols
        if HAS_UPDATE:
            source = dh_ptr + sample * dh_stride_b + token * dh_stride_s
            d = tl.load(source + cols, mask=live, other=0.0).to(ACC)
        else:
            d = tl.zeros((BLOCK,), dtype=ACC)
        if HAS_NORM or CLAMP:
            source = h_ptr + sample * h_stride_b + token * h_stride_s
            h = tl.load(source + cols, mask=live, other=0.0).to(ACC)
        # Through the norm.
        if HAS_NORM:
            source = dy_ptr + sample * dy_stride_b + token * dy_stride_s
            dy = tl.load(source + cols, mask=live, other=0.0).to(ACC)
            centred = tl.where(live, h - tl.sum(h, axis=0) / WIDTH, 0.0)
            r = tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + eps)
            xh = centred * r
            g = dy * (1 + scale)
            d += r * (g - tl.sum(g, axis=0) / WIDTH - xh * (tl.sum(g * xh, axis=0) / WIDTH))
            if NEEDS_NORM:
                d_scale += dy * xh
                d_shift += dy
        if CLAMP:
            # The clamp passes no gradient where it took effect.
            d = tl.where(tl.abs(h) < LIMIT, d, 0.0)
        if HAS_NORM or CLAMP:
            tl.store(d_residual_ptr + out, cast(d, d_residual_ptr.dtype.element_ty), mask=live)
        if HAS_UPDATE:
            d_update = cast(gate * d, d_update_ptr.dtype.element_ty)
            tl.store(d_update_ptr + out, d_update, mask=live)
            if NEEDS_GATE:
                source = update_ptr + sample * update_stride_b + token * update_stride_s
                d_gate += d * tl.load(source + cols, mask=live, other=0.0).to(ACC)
    # One partial sum per program, added up by the caller: atomics would not be repeatable.
    partial = (sample * tl.num_programs(0) + group) * WIDTH + cols
    if NEEDS_GATE:
        tl.store(d_gate_ptr + partial, d_gate, mask=mask)
    if NEEDS_NORM:
        tl.store(d_scale_ptr + partial, d_scale, mask=mask)
        tl.store(d_shift_ptr + partial, d_shift, mask=mask)


def _fake(
    residual: Tensor, gate: Tensor | None, update: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, eps: float, clamp: bool,
) -> Pair:  # fmt: skip
    del update, shift, eps, clamp
    h = residual.new_empty(residual.shape if gate is not None else 0)
    return h, residual.new_empty(residual.shape if scale is not None else 0)


def _launch(
    residual: Tensor, gate: Tensor | None, update: Tensor | None, scale: Tensor | None,
    shift: Tensor | None, eps: float, clamp: bool,
) -> Pair:  # fmt: skip
    h, y = _fake(residual, gate, update, scale, shift, eps, clamp)  # [B, S, D] or empty
    batch, tokens, width = residual.shape
    launch = for_row(width)
    # Pointers that the compiled branches do not read still have to be tensors.
    update_, gate_, scale_, shift_ = (
        residual if t is None else t for t in (update, gate, scale, shift)
    )
    _adaln_fwd_kernel[(tokens, batch)](
        residual, update_, gate_, scale_, shift_, h, y,
        *residual.stride()[:2], *update_.stride()[:2],
        gate_.stride(0), scale_.stride(0), shift_.stride(0), eps,
        WIDTH=width, BLOCK=launch.block, ACC=accumulator(residual.dtype),
        HAS_UPDATE=gate is not None, HAS_NORM=scale is not None,
        CLAMP=clamp and residual.dtype is torch.float16, num_warps=launch.num_warps,
    )  # fmt: skip
    return h, y


def _fake_bwd(
    dh: Tensor | None, dy: Tensor | None, h: Tensor, gate: Tensor | None, update: Tensor | None,
    scale: Tensor | None, eps: float, clamp: bool, needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    del dh, dy, update, eps
    batch, _, width = h.shape
    vectors = zip(needs, (gate, scale, scale), strict=True)
    return [
        h.new_empty(h.shape if _changes_residual(h, scale, clamp) else 0),
        h.new_empty(h.shape if gate is not None else 0),
        # [B, D] each
        *(h.new_empty(0) if v is None or not n else v.new_empty(batch, width) for n, v in vectors),
    ]


def _launch_bwd(
    dh: Tensor | None, dy: Tensor | None, h: Tensor, gate: Tensor | None, update: Tensor | None,
    scale: Tensor | None, eps: float, clamp: bool, needs: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    grads = _fake_bwd(dh, dy, h, gate, update, scale, eps, clamp, needs)
    batch, tokens, width = h.shape
    launch, acc = for_row(width), accumulator(h.dtype)
    rows = rows_per_program(tokens, any(needs))
    groups = -(-tokens // rows)
    wide = torch.float64 if acc == tl.float64 else torch.float32
    # Per program, [B, groups, D] each.
    sums = [
        torch.empty((batch, groups, width) if n else (1,), dtype=wide, device=h.device)
        for n in needs
    ]
    dh_, dy_ = (h if d is None else _unit_stride(d) for d in (dh, dy))
    update_, gate_, scale_ = (h if t is None else t for t in (update, gate, scale))
    _adaln_bwd_kernel[(groups, batch)](
        dh_, dy_, h, update_, gate_, scale_, grads[0], grads[1], *sums,
        *dh_.stride()[:2], *dy_.stride()[:2], *h.stride()[:2], *update_.stride()[:2],
        gate_.stride(0), scale_.stride(0), tokens, eps,
        WIDTH=width, BLOCK=launch.block, ROWS=rows, ACC=acc,
        HAS_UPDATE=gate is not None, HAS_NORM=scale is not None,
        CLAMP=clamp and h.dtype is torch.float16,
        NEEDS_GATE=needs[0], NEEDS_NORM=needs[1] or needs[2], num_warps=launch.num_warps,
    )  # fmt: skip
    for i, total in enumerate(sums):
        if needs[i]:
            grads[2 + i].copy_(total.sum(1))
    return grads


def _changes_residual(h: Tensor, scale: Tensor | None, clamp: bool) -> bool:
    """Tell whether the gradient of the residual is another than that of the result."""
    return scale is not None or (clamp and h.dtype is torch.float16)


def _unit_stride(x: Tensor) -> Tensor:
    """Return a gradient as it is unless its rows are scattered, as those of a plain sum are."""
    return x if x.stride(-1) == 1 else x.contiguous()


forward = register(
    "adaln(Tensor residual, Tensor? gate, Tensor? update, Tensor? scale, Tensor? shift, float eps, "
    "bool clamp) -> (Tensor, Tensor)",
    _launch,
    _fake,
)
backward = register(
    "adaln_bwd(Tensor? dh, Tensor? dy, Tensor h, Tensor? gate, Tensor? update, Tensor? scale, "
    "float eps, bool clamp, bool[] needs) -> Tensor[]",
    _launch_bwd,
    _fake_bwd,
)


class _Adaln(torch.autograd.Function):
    """``(residual, gate?, update?, scale?, shift?)`` to ``(h, y)``; what is not made is empty."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        gate: Tensor | None,
        update: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        eps: float,
        clamp: bool,
    ) -> Pair:
        h, y = forward(residual, gate, update, scale, shift, eps, clamp)
        saved_update = update if ctx.needs_input_grad[1] else None
        needs_h = _changes_residual(residual, scale, clamp)
        saved = (residual if gate is None else h) if needs_h else None
        ctx.save_for_backward(saved, gate, saved_update, scale)
        ctx.eps, ctx.clamp = eps, clamp
        return h, y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dh: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        h, gate, update, scale = ctx.saved_tensors
        _, wants_gate, wants_update, wants_scale, wants_shift, *_ = ctx.needs_input_grad
        # Without the norm h is not read: any tensor of its shape will do.
        h = dh if h is None else h
        needs = [wants_gate, wants_scale or wants_shift, wants_scale or wants_shift]
        grads = backward(
            dh if gate is not None else None,
            dy if scale is not None else None,
            h, gate, update, scale, ctx.eps, ctx.clamp, needs,
        )  # fmt: skip
        return (
            grads[0] if _changes_residual(h, scale, ctx.clamp) else dh,
            grads[2] if wants_gate else None,
            grads[1] if wants_update else None,
            grads[3] if wants_scale else None,
            grads[4] if wants_shift else None,
            None,
            None,
        )


def adaln_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Run the kernel; see :func:`kernels.adaln_modulate`."""
    return _Adaln.apply(x, None, None, scale, shift, eps, False)[1]


def gated_residual(residual: Tensor, gate: Tensor, update: Tensor, clamp: bool) -> Tensor:
    """Run the kernel; see :func:`kernels.gated_residual`."""
    return _Adaln.apply(residual, gate, update, None, None, 0.0, clamp)[0]


def gated_residual_adaln(
    residual: Tensor, gate: Tensor, update: Tensor, modulation: Pair, eps: float, clamp: bool
) -> Pair:
    """Run the kernel; see :func:`kernels.gated_residual_adaln`."""
    return _Adaln.apply(residual, gate, update, *modulation, eps, clamp)
