"""RMSNorm of query and key heads and rotary embedding in one pass; joint text and image form.

Per token and head, x of D values in pairs (2i, 2i+1), as diffusers rotates them:
``r = rsqrt(mean(x^2) + eps)``, ``n = w x r``, ``y0 = n0 c - n1 s``, ``y1 = n1 c + n0 s``.
Backward: ``dn`` is dy rotated back, ``g = w dn``, ``xh = x r``, ``dx = r (g - xh mean(g xh))``,
``dw = sum(dn xh)``. Saved: the inputs only.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import for_heads
from .numerics import accumulator, cast
from .reference import QKV, Pair
from .registration import register


@triton.jit
def _rotate(n, cos, sin, BLOCK: tl.constexpr, DIM: tl.constexpr):
    n0, n1 = tl.split(tl.reshape(n, (BLOCK, DIM // 2, 2)))
    y0 = n0 * cos - n1 * sin
    y1 = n1 * cos + n0 * sin
    return tl.reshape(tl.join(y0, y1), (BLOCK, DIM))


@triton.jit
def _norm_rope_row(
    x_ptr, x_stride, out_ptr, weight_ptr, cos, sin, eps,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    cols = tl.arange(0, DIM)[None, :]
    weight = tl.load(weight_ptr + cols).to(ACC)
    for start in tl.static_range(0, HEADS, BLOCK):
        heads = start + tl.arange(0, BLOCK)[:, None]
        mask = heads < HEADS
        x = tl.load(x_ptr + heads * x_stride + cols, mask=mask, other=0.0).to(ACC)
        r = tl.rsqrt(tl.sum(x * x, axis=1) / DIM + eps)
        y = _rotate(x * r[:, None] * weight, cos, sin, BLOCK, DIM)
        tl.store(out_ptr + heads * DIM + cols, cast(y, out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _qk_norm_rope_fwd_kernel(
    q_ptr, k_ptr, v_ptr, q_out_ptr, k_out_ptr, v_out_ptr,
    q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr,
    q_stride_b, q_stride_s, q_stride_h, k_stride_b, k_stride_s, k_stride_h,
    v_stride_b, v_stride_s, v_stride_h, angle_stride_s, angle_stride_d,
    offset, total, eps,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    which = tl.program_id(2)
    # int64, because packed rows are long.
    row = (sample * total + offset + token) * (HEADS * DIM)
    pairs = tl.arange(0, DIM // 2)[None, :] * angle_stride_d
    angle = (offset + token).to(tl.int64) * angle_stride_s
    token = token.to(tl.int64)
    # Programs 0 and 1 normalise and rotate q and k, program 2 copies v.
    if which < 2:
        cos = tl.load(cos_ptr + angle + pairs).to(ACC)
        sin = tl.load(sin_ptr + angle + pairs).to(ACC)
        if which == 0:
            _norm_rope_row(
                q_ptr + sample * q_stride_b + token * q_stride_s, q_stride_h, q_out_ptr + row,
                q_weight_ptr, cos, sin, eps, HEADS, BLOCK, DIM, ACC,
            )  # fmt: skip
        else:
            _norm_rope_row(
                k_ptr + sample * k_stride_b + token * k_stride_s, k_stride_h, k_out_ptr + row,
                k_weight_ptr, cos, sin, eps, HEADS, BLOCK, DIM, ACC,
            )  # fmt: skip
    else:
        cols = tl.arange(0, DIM)[None, :]
        source = v_ptr + sample * v_stride_b + token * v_stride_s
        for start in tl.static_range(0, HEADS, BLOCK):
            heads = start + tl.arange(0, BLOCK)[:, None]
            mask = heads < HEADS
            value = tl.load(source + heads * v_stride_h + cols, mask=mask)
            tl.store(v_out_ptr + row + heads * DIM + cols, value, mask=mask)


@triton.jit
def _norm_rope_bwd_row(
    dy_ptr, dy_stride, x_ptr, x_stride, dx_ptr, weight_ptr, dw_ptr, cos, sin, eps,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, ACC: tl.constexpr,
    NEEDS_WEIGHT: tl.constexpr,
):  # fmt: skip
    cols = tl.arange(0, DIM)[None, :]
    weight = tl.load(weight_ptr + cols).to(ACC)
    dw = tl.zeros((DIM,), dtype=ACC)
    for start in tl.static_range(0, HEADS, BLOCK):
        heads = start + tl.arange(0, BLOCK)[:, None]
        mask = heads < HEADS
        x = tl.load(x_ptr + heads * x_stride + cols, mask=mask, other=0.0).to(ACC)
        dy = tl.load(dy_ptr + heads * dy_stride + cols, mask=mask, other=0.0).to(ACC)
        dn = _rotate(dy, cos, -sin, BLOCK, DIM)
        r = tl.rsqrt(tl.sum(x * x, axis=1) / DIM + eps)[:, None]
        xh = x * r
        g = weight * dn
        dx = r * (g - xh * (tl.sum(g * xh, axis=1) / DIM)[:, None])
        tl.store(dx_ptr + heads * DIM + cols, cast(dx, dx_ptr.dtype.element_ty), mask=mask)
        if NEEDS_WEIGHT:
            dw += tl.sum(dn * xh, axis=0)
    if NEEDS_WEIGHT:
        tl.store(dw_ptr + tl.arange(0, DIM), dw)


@triton.jit
def _qk_norm_rope_bwd_kernel(
    dq_ptr, dk_ptr, q_ptr, k_ptr, q_out_ptr, k_out_ptr,
    q_weight_ptr, k_weight_ptr, dw_ptr, cos_ptr, sin_ptr,
    dq_stride_b, dq_stride_s, dq_stride_h, dk_stride_b, dk_stride_s, dk_stride_h,
    q_stride_b, q_stride_s, q_stride_h, k_stride_b, k_stride_s, k_stride_h,
    angle_stride_s, angle_stride_d, offset, eps,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr, ACC: tl.constexpr,
    NEEDS_WEIGHT: tl.constexpr,
):  # fmt: skip
    tokens = tl.num_programs(0)
    samples = tl.num_programs(1)
    token = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1).to(tl.int64)
    which = tl.program_id(2)
    pairs = tl.arange(0, DIM // 2)[None, :] * angle_stride_d
    cos = tl.load(cos_ptr + (offset + token) * angle_stride_s + pairs).to(ACC)
    sin = tl.load(sin_ptr + (offset + token) * angle_stride_s + pairs).to(ACC)
    row = sample * tokens + token
    # One partial sum per program, added up by the caller: atomics would not be repeatable.
    dw_ptr += (which * samples * tokens + row) * DIM
    if which == 0:
        _norm_rope_bwd_row(
            dq_ptr + sample * dq_stride_b + (offset + token) * dq_stride_s, dq_stride_h,
            q_ptr + sample * q_stride_b + token * q_stride_s, q_stride_h,
            q_out_ptr + row * (HEADS * DIM), q_weight_ptr, dw_ptr, cos, sin, eps,
            HEADS, BLOCK, DIM, ACC, NEEDS_WEIGHT,
        )  # fmt: skip
    else:
        _norm_rope_bwd_row(
            dk_ptr + sample * dk_stride_b + (offset + token) * dk_stride_s, dk_stride_h,
            k_ptr + sample * k_stride_b + token * k_stride_s, k_stride_h,
            k_out_ptr + row * (HEADS * DIM), k_weight_ptr, dw_ptr, cos, sin, eps,
            HEADS, BLOCK, DIM, ACC, NEEDS_WEIGHT,
        )  # fmt: skip


def _empty_joint(streams: list[Tensor]) -> Tensor:
    """Return an empty joint buffer for the streams, contiguous."""
    batch, _, heads, dim = streams[0].shape
    tokens = sum(stream.shape[1] for stream in streams)
    return streams[0].new_empty(batch, tokens, heads, dim)  # [B, S, H, D]


def _fake(
    q: list[Tensor], k: list[Tensor], v: list[Tensor], weights: list[Tensor],
    cos: Tensor, sin: Tensor, eps: float,
) -> QKV:  # fmt: skip
    del weights, cos, sin, eps
    return _empty_joint(q), _empty_joint(k), _empty_joint(v) if v else q[0].new_empty(0)


def _launch(
    q: list[Tensor], k: list[Tensor], v: list[Tensor], weights: list[Tensor],
    cos: Tensor, sin: Tensor, eps: float,
) -> QKV:  # fmt: skip
    q_out, k_out, v_out = _fake(q, k, v, weights, cos, sin, eps)
    sin = sin if sin.stride() == cos.stride() else sin.contiguous()
    cos = cos if sin.stride() == cos.stride() else cos.contiguous()
    batch, total, heads, dim = q_out.shape
    launch = for_heads(heads, dim)
    offset = 0
    for i in range(len(q)):
        value = v[i] if v else q[i]
        _qk_norm_rope_fwd_kernel[(q[i].shape[1], batch, 3 if v else 2)](
            q[i], k[i], value, q_out, k_out, v_out, weights[2 * i], weights[2 * i + 1], cos, sin,
            *q[i].stride()[:3], *k[i].stride()[:3], *value.stride()[:3], *cos.stride(),
            offset, total, eps,
            HEADS=heads, BLOCK=launch.block, DIM=dim, ACC=accumulator(q_out.dtype),
            num_warps=launch.num_warps,
        )  # fmt: skip
        offset += q[i].shape[1]
    return q_out, k_out, v_out


def _fake_bwd(
    dq: Tensor, dk: Tensor, q: list[Tensor], k: list[Tensor], weights: list[Tensor],
    cos: Tensor, sin: Tensor, eps: float, needs_weights: bool,
) -> list[Tensor]:  # fmt: skip
    del dq, dk, cos, sin, eps
    grads = []  # d q and d k of each stream, [B, S, H, D]
    for query, key in zip(q, k, strict=True):
        grads += [query.new_empty(query.shape), key.new_empty(key.shape)]
    return grads + [w.new_empty(w.shape) for w in weights if needs_weights]


def _launch_bwd(
    dq: Tensor, dk: Tensor, q: list[Tensor], k: list[Tensor], weights: list[Tensor],
    cos: Tensor, sin: Tensor, eps: float, needs_weights: bool,
) -> list[Tensor]:  # fmt: skip
    cos, sin = cos.contiguous(), sin.contiguous()
    dq, dk = (d if d.stride(-1) == 1 else d.contiguous() for d in (dq, dk))
    batch, _, heads, dim = dq.shape
    launch, acc = for_heads(heads, dim), accumulator(dq.dtype)
    wide = torch.float64 if acc == tl.float64 else torch.float32
    grads, sums, offset = [], [], 0
    for i, (query, key) in enumerate(zip(q, k, strict=True)):
        tokens = query.shape[1]
        d_query, d_key = query.new_empty(query.shape), key.new_empty(key.shape)  # [B, S, H, D]
        size = (2, batch * tokens, dim) if needs_weights else (1,)
        # One row of the weights' gradients per program.
        partial = torch.empty(size, dtype=wide, device=dq.device)
        _qk_norm_rope_bwd_kernel[(tokens, batch, 2)](
            dq, dk, query, key, d_query, d_key, weights[2 * i], weights[2 * i + 1], partial,
            cos, sin, *dq.stride()[:3], *dk.stride()[:3], *query.stride()[:3], *key.stride()[:3],
            *cos.stride(), offset, eps,
            HEADS=heads, BLOCK=launch.block, DIM=dim, ACC=acc, NEEDS_WEIGHT=needs_weights,
            num_warps=launch.num_warps,
        )  # fmt: skip
        grads += [d_query, d_key]
        if needs_weights:
            sums += [rows.sum(0).to(weights[2 * i].dtype) for rows in partial]
        offset += tokens
    return grads + sums


forward = register(
    "qk_norm_rope(Tensor[] q, Tensor[] k, Tensor[] v, Tensor[] weights, Tensor cos, Tensor sin, "
    "float eps) -> (Tensor, Tensor, Tensor)",
    _launch,
    _fake,
)
backward = register(
    "qk_norm_rope_bwd(Tensor dq, Tensor dk, Tensor[] q, Tensor[] k, Tensor[] weights, Tensor cos, "
    "Tensor sin, float eps, bool needs_weights) -> Tensor[]",
    _launch_bwd,
    _fake_bwd,
)


class _QkNormRope(torch.autograd.Function):
    """All q, all k, ``q_weight, k_weight`` per stream, and all v if joined, to one q, k and v."""

    @staticmethod
    def forward(
        ctx: Any, num_streams: int, eps: float, cos: Tensor, sin: Tensor, *tensors: Tensor
    ) -> QKV:
        n = num_streams
        q, k, weights, v = tensors[:n], tensors[n : 2 * n], tensors[2 * n : 4 * n], tensors[4 * n :]
        ctx.save_for_backward(cos, sin, *q, *k, *weights)
        ctx.num_streams, ctx.eps = n, eps
        ctx.splits = [x.shape[1] for x in v]
        return forward(list(q), list(k), list(v), list(weights), cos, sin, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        n = ctx.num_streams
        cos, sin, *tensors = ctx.saved_tensors
        q, k, weights = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        needs_weights = any(ctx.needs_input_grad[4 + 2 * n : 4 + 4 * n])
        grads = backward(dq, dk, q, k, weights, cos, sin, ctx.eps, needs_weights)
        d_weights = grads[2 * n :] if needs_weights else [None] * (2 * n)
        d_values = dv.split(ctx.splits, dim=1) if ctx.splits else ()
        return (None, None, None, None, *grads[: 2 * n : 2], *grads[1 : 2 * n : 2], *d_weights,
                *d_values)  # fmt: skip


def qk_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> Pair:
    """Run the kernel; see :func:`kernels.qk_norm_rope`."""
    rotated = _QkNormRope.apply(1, eps, cos, sin, q, k, q_weight, k_weight)
    return rotated[0], rotated[1]


def joint_qkv_norm_rope(
    text: QKV, image: QKV, text_weights: Pair, image_weights: Pair, angles: Pair, eps: float
) -> QKV:
    """Run the kernel; see :func:`kernels.joint_qkv_norm_rope`."""
    return _QkNormRope.apply(
        2, eps, *angles, text[0], image[0], text[1], image[1], *text_weights, *image_weights,
        text[2], image[2],
    )  # fmt: skip
