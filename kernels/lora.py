"""A frozen linear layer with a low-rank adapter, as one autograd function on the library's GEMMs.

``y = x W^T + b + scaling (x down^T) up^T``. With ``g = scaling dy up``: ``dx = dy W + g down``,
``d down = g^T x``, ``d up = scaling dy^T h``. Saved: x, and ``h = x down^T`` of rank r, which is
tiny. Written as plain operations the branch reads and writes the output six times, here once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # [N, I]
        h = rows @ down.to(x.dtype).T  # [N, r]
        y = F.linear(rows, weight, bias)  # [N, O]
        y.addmm_(h, up.to(x.dtype).T, alpha=scaling)
        ctx.save_for_backward(x, weight, down, up, h)
        ctx.scaling = scaling
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, h = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, wants_down, wants_up, _ = ctx.needs_input_grad
        rows, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        g = (dy @ up.to(dy.dtype)).mul_(ctx.scaling)  # [N, r]
        dx = None
        if wants_x:
            dx = (dy @ weight).addmm_(g, down.to(dy.dtype)).view(x.shape)
        return (
            dx,
            dy.T @ rows if wants_weight else None,
            dy.sum(0) if wants_bias else None,
            (g.T @ rows).to(down.dtype) if wants_down else None,
            (dy.T @ h).mul_(ctx.scaling).to(up.dtype) if wants_up else None,
            None,
        )


def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
) -> Tensor:
    """Apply a linear layer and its adapter.

    Args:
        x: Input ``[..., I]``.
        weight: Frozen weight ``[O, I]`` of the same data type.
        bias: ``[O]``, or None.
        down: Adapter's first matrix ``[r, I]``; float32 masters compute in the type of x.
        up: Its second matrix ``[O, r]``; if it is 0, the result equals the layer's bit for bit.
        scaling: Factor on the adapter's effect.

    Source: LoRA (arXiv 2106.09685); PEFT, ``lora.Linear``.
    """
    return _LoraLinear.apply(x, weight, bias, down, up, scaling)
