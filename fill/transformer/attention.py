"""Scaled dot-product attention with a stated order of preference among PyTorch's backends.

PyTorch's own order differs between its versions, and on Hopper its choice of FlashAttention-2 costs
more than most kernels gain. diffusers' explicit cuDNN backend copies query, key and value first.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...kernels.dispatch import constant

HOPPER = (9, 0)
ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""On Hopper and newer; whatever does not accept a call is passed over."""
OVERRIDE = "DIFFUSERS_ATTN_BACKEND"
"""Environment variable with which users of diffusers choose; it is obeyed."""


def attend(q: Tensor, k: Tensor, v: Tensor, processor: Any) -> Tensor:
    """Return attention over all tokens, ``[B, S, H, D]`` in and ``[B, S, H * D]`` out.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        processor: diffusers' attention processor; a backend chosen on it goes first.
    """
    if processor._attention_backend is not None or os.environ.get(OVERRIDE):
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        return dispatch_attention_fn(q, k, v, backend=processor._attention_backend).flatten(2, 3)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if is_hopper(q.device.type, q.device.index):
        with sdpa_kernel(ORDER, set_priority=True):
            out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2, 3).to(q.dtype)


@constant
def is_hopper(kind: str, index: int | None) -> bool:
    """Tell whether a device is a Hopper or newer NVIDIA GPU."""
    if kind != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(index) >= HOPPER


def describe_attention(device: torch.device, processor: Any) -> str:
    """Name the attention backend for the log and for benchmark reports."""
    if processor._attention_backend is not None:
        return str(getattr(processor._attention_backend, "value", processor._attention_backend))
    if name := os.environ.get(OVERRIDE):
        return name
    if not is_hopper(device.type, device.index):
        return "PyTorch's choice"
    return "cuDNN, else FlashAttention"
