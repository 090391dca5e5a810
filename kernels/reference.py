"""Every fused operation in plain PyTorch: its definition, and what runs where no kernel can.

Half-precision inputs are computed in float32 and rounded once; float64 stays float64, so that the
same lines give the exact value in tests. Gradients come from autograd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_FP16 = 65504.0
QKV = tuple[Tensor, Tensor, Tensor]
Pair = tuple[Tensor, Tensor]


def widen(x: Tensor) -> Tensor:
    """Return float32, or float64 as it is."""
    return x if x.dtype is torch.float64 else x.float()


def qk_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> Pair:
    """RMSNorm of every head, then rotation of its pairs (2i, 2i+1)."""
    return _norm_rope(q, q_weight, cos, sin, eps), _norm_rope(k, k_weight, cos, sin, eps)


def joint_qkv_norm_rope(
    text: QKV, image: QKV, text_weights: Pair, image_weights: Pair, angles: Pair, eps: float
) -> QKV:
    """Both streams normalised by their own weights, joined (text first) and rotated."""
    split = text[0].shape[1]
    first, second = [a[:split] for a in angles], [a[split:] for a in angles]
    text_qk = qk_norm_rope(*text[:2], *text_weights, first[0], first[1], eps)
    image_qk = qk_norm_rope(*image[:2], *image_weights, second[0], second[1], eps)
    # Joined along the tokens: [B, T + S, H, D].
    q, k = (torch.cat(pair, dim=1) for pair in zip(text_qk, image_qk, strict=True))
    return q, k, torch.cat([text[2], image[2]], dim=1)


def _norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    wide = widen(x)  # [B, S, H, D]
    n = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight
    n0, n1 = n.unflatten(-1, (-1, 2)).unbind(-1)  # [B, S, H, D/2]
    cos, sin = cos[:, None], sin[:, None]  # [S, 1, D/2]
    return torch.stack([n0 * cos - n1 * sin, n1 * cos + n0 * sin], -1).flatten(-2).to(x.dtype)


def adaln_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights, then ``* (1 + scale) + shift`` per sample."""
    y = F.layer_norm(widen(x), x.shape[-1:], eps=eps)
    return (y * (1 + widen(scale)[:, None]) + widen(shift)[:, None]).to(x.dtype)


def gated_residual(residual: Tensor, gate: Tensor, update: Tensor, clamp: bool) -> Tensor:
    """``residual + gate * update``; clamp: float16 stays finite."""
    h = widen(residual) + widen(gate)[:, None] * widen(update)
    if clamp and residual.dtype is torch.float16:
        h = h.clamp(-MAX_FP16, MAX_FP16)
    return h.to(residual.dtype)


def gated_residual_adaln(
    residual: Tensor, gate: Tensor, update: Tensor, modulation: Pair, eps: float, clamp: bool
) -> Pair:
    """The gated residual, rounded, and its modulated LayerNorm."""
    h = gated_residual(residual, gate, update, clamp)
    return h, adaln_modulate(h, *modulation, eps)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    return F.gelu(x, approximate="tanh")


def concat_gelu(attention: Tensor, mlp: Tensor) -> Tensor:
    """Attention output beside the activated hidden layer."""
    return torch.cat([attention, gelu_tanh(mlp)], dim=-1)


def cfg_euler_step(
    latents: Tensor,
    velocity: Tensor,
    sigmas: tuple[float, float],
    true_cfg: float,
    blend: tuple[Tensor, Tensor, Tensor] | None,
) -> Pair:
    """One Euler step of the guided velocity, and the image it points at."""
    sigma, sigma_next = sigmas
    x, v = widen(latents), widen(velocity)
    if v.shape[0] != x.shape[0]:
        negative, positive = v.chunk(2)
        v = negative + true_cfg * (positive - negative)
    stepped = x + (sigma_next - sigma) * v
    if blend is not None:
        keep, source, noise = (widen(t) for t in blend)
        keep = keep.repeat(1, 1, math.ceil(x.shape[-1] / keep.shape[-1]))
        path = (1 - sigma_next) * source + sigma_next * noise
        # Written so that keep 0 and keep 1 are exact.
        stepped = torch.where(keep == 1, path, stepped + keep * (path - stepped))
    return stepped.to(latents.dtype), (x - sigma * v).to(latents.dtype)
