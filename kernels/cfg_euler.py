"""Classifier-free guidance, one Euler step, the image it points at and a blend with a source.

``v = v_neg + cfg (v_pos - v_neg)``, ``x' = x + (sigma_next - sigma) v``, ``x0 = x - sigma v``; with
keep k in 0..1: ``x' = (1 - k) x' + k ((1 - sigma_next) source + sigma_next noise)``. Backward, with
``g = (sigma_next - sigma) (1 - k) dx' - sigma dx0``: ``dv_pos = cfg g``, ``dv_neg = (1 - cfg) g``,
``dx = (1 - k) dx' + dx0``. Saved: k only.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import for_row
from .numerics import accumulator, cast
from .reference import Pair
from .registration import register


@triton.jit
def _cfg_euler_fwd_kernel(
    x_ptr, v_ptr, keep_ptr, source_ptr, noise_ptr, out_ptr, x0_ptr,
    sigma, sigma_next, true_cfg, size, keep_width,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
    GUIDED: tl.constexpr, BLENDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    at = row * WIDTH + cols
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(ACC)
    v = tl.load(v_ptr + at, mask=mask, other=0.0).to(ACC)
    if GUIDED:
        # The negative half comes first.
        positive = tl.load(v_ptr + size + at, mask=mask, other=0.0).to(ACC)
        v += true_cfg * (positive - v)
    y = x + (sigma_next - sigma) * v
    if BLENDED:
        keep = tl.load(keep_ptr + row * keep_width + cols % keep_width, mask=mask, other=0.0)
        keep = keep.to(ACC)
        source = tl.load(source_ptr + at, mask=mask, other=0.0).to(ACC)
        noise = tl.load(noise_ptr + at, mask=mask, other=0.0).to(ACC)
        path = (1 - sigma_next) * source + sigma_next * noise
        y = tl.where(keep == 1, path, y + keep * (path - y))
    tl.store(out_ptr + at, cast(y, out_ptr.dtype.element_ty), mask=mask)
    tl.store(x0_ptr + at, cast(x - sigma * v, x0_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _cfg_euler_bwd_kernel(
    dy_ptr, dx0_ptr, keep_ptr, dx_ptr, dv_ptr, sigma, sigma_next, true_cfg, size, keep_width,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
    GUIDED: tl.constexpr, BLENDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < WIDTH
    at = row * WIDTH + cols
    dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(ACC)
    dx0 = tl.load(dx0_ptr + at, mask=mask, other=0.0).to(ACC)
    if BLENDED:
        keep = tl.load(keep_ptr + row * keep_width + cols % keep_width, mask=mask, other=0.0)
        dy *= 1 - keep.to(ACC)
    tl.store(dx_ptr + at, cast(dy + dx0, dx_ptr.dtype.element_ty), mask=mask)
    g = (sigma_next - sigma) * dy - sigma * dx0
    kind: tl.constexpr = dv_ptr.dtype.element_ty
    if GUIDED:
        tl.store(dv_ptr + at, cast((1 - true_cfg) * g, kind), mask=mask)
        tl.store(dv_ptr + size + at, cast(true_cfg * g, kind), mask=mask)
    else:
        tl.store(dv_ptr + at, cast(g, kind), mask=mask)


def _fake(
    latents: Tensor, velocity: Tensor, keep: Tensor | None, source: Tensor | None,
    noise: Tensor | None, sigma: float, sigma_next: float, true_cfg: float,
) -> Pair:  # fmt: skip
    del velocity, keep, source, noise, sigma, sigma_next, true_cfg
    return latents.new_empty(latents.shape), latents.new_empty(latents.shape)  # [B, S, C] each


def _launch(
    latents: Tensor, velocity: Tensor, keep: Tensor | None, source: Tensor | None,
    noise: Tensor | None, sigma: float, sigma_next: float, true_cfg: float,
) -> Pair:  # fmt: skip
    tensors = (latents, velocity, keep, source, noise)
    out, x0 = _fake(*tensors, sigma, sigma_next, true_cfg)
    # Pointers that the compiled branches do not read still have to be tensors.
    x, velocity_, keep_, source_, noise_ = (
        latents if t is None else t.contiguous() for t in tensors
    )
    width = x.shape[-1]
    launch = for_row(width)
    _cfg_euler_fwd_kernel[(x.numel() // width,)](
        x, velocity_, keep_, source_, noise_, out, x0,
        sigma, sigma_next, true_cfg, x.numel(), keep_.shape[-1],
        WIDTH=width, BLOCK=launch.block, ACC=accumulator(x.dtype),
        GUIDED=velocity.shape[0] != x.shape[0], BLENDED=keep is not None,
        num_warps=launch.num_warps,
    )  # fmt: skip
    return out, x0


def _fake_bwd(
    dy: Tensor, dx0: Tensor, keep: Tensor | None, is_guided: bool, dtype: torch.dtype,
    sigma: float, sigma_next: float, true_cfg: float,
) -> Pair:  # fmt: skip
    del dx0, keep, sigma, sigma_next, true_cfg
    rows = dy.shape[0] * (2 if is_guided else 1)
    # [B, S, C], and [B or 2 B, S, C]
    return dy.new_empty(dy.shape), dy.new_empty(rows, *dy.shape[1:], dtype=dtype)


def _launch_bwd(
    dy: Tensor, dx0: Tensor, keep: Tensor | None, is_guided: bool, dtype: torch.dtype,
    sigma: float, sigma_next: float, true_cfg: float,
) -> Pair:  # fmt: skip
    dx, dv = _fake_bwd(dy, dx0, keep, is_guided, dtype, sigma, sigma_next, true_cfg)
    width = dy.shape[-1]
    launch = for_row(width)
    weight = dy if keep is None else keep
    _cfg_euler_bwd_kernel[(dy.numel() // width,)](
        dy.contiguous(), dx0.contiguous(), weight.contiguous(), dx, dv,
        sigma, sigma_next, true_cfg, dy.numel(), weight.shape[-1],
        WIDTH=width, BLOCK=launch.block, ACC=accumulator(dy.dtype),
        GUIDED=is_guided, BLENDED=keep is not None,
        num_warps=launch.num_warps,
    )  # fmt: skip
    return dx, dv


forward = register(
    "cfg_euler(Tensor latents, Tensor velocity, Tensor? keep, Tensor? source, Tensor? noise, "
    "float sigma, float sigma_next, float true_cfg) -> (Tensor, Tensor)",
    _launch,
    _fake,
)
backward = register(
    "cfg_euler_bwd(Tensor dy, Tensor dx0, Tensor? keep, bool is_guided, ScalarType dtype, "
    "float sigma, float sigma_next, float true_cfg) -> (Tensor, Tensor)",
    _launch_bwd,
    _fake_bwd,
)


class _CfgEuler(torch.autograd.Function):
    """Latents and velocity to the next latents and x0."""

    @staticmethod
    def forward(
        ctx: Any, latents: Tensor, velocity: Tensor, keep: Tensor | None, source: Tensor | None,
        noise: Tensor | None, sigma: float, sigma_next: float, true_cfg: float,
    ) -> Pair:  # fmt: skip
        ctx.save_for_backward(keep)
        ctx.is_guided, ctx.dtype = velocity.shape[0] != latents.shape[0], velocity.dtype
        ctx.numbers = sigma, sigma_next, true_cfg
        return forward(latents, velocity, keep, source, noise, *ctx.numbers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dx0: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        grads = backward(dy, dx0, keep, ctx.is_guided, ctx.dtype, *ctx.numbers)
        return (*grads, *[None] * 6)


def cfg_euler_step(
    latents: Tensor,
    velocity: Tensor,
    sigmas: tuple[float, float],
    true_cfg: float,
    blend: tuple[Tensor, Tensor, Tensor] | None,
) -> Pair:
    """Run the kernel; see :func:`kernels.cfg_euler_step`."""
    keep, source, noise = blend or (None, None, None)
    return _CfgEuler.apply(latents, velocity, keep, source, noise, *sigmas, true_cfg)
