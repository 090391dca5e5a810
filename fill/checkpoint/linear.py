"""A linear layer whose weight stays as small as the file has it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .codec import expand


class QuantisedLinear(nn.Linear):
    """``y = x W' + b`` with W expanded at every use and forgotten again.

    It is frozen: gradients flow through it to x and to adapters beside it, never into it. Autograd
    keeps the packed weight, not the expanded one, and expands once more on the way back.

    Example: ``QuantisedLinear('F8_E4M3', packed, 3072, torch.bfloat16, scale=scale)``.

    Args:
        kind: Type of the packed weight, see :func:`~.codec.expand`.
        packed: uint8 ``[out_features, bytes per row]``.
        in_features: Columns of the expanded weight.
        dtype: Type to expand to; activations have it too.
        scale: float32, as :func:`~.codec.expand` takes it, or None.
        bias: ``[out_features]`` in ``dtype``, or None.
    """

    scale: torch.Tensor | None

    def __init__(
        self,
        kind: str,
        packed: torch.Tensor,
        in_features: int,
        dtype: torch.dtype,
        *,
        scale: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features = in_features
        self.out_features = packed.shape[0]
        self.kind = kind
        self.compute_dtype = dtype  # PEFT gives adapters this type
        self.packed = nn.Parameter(packed, requires_grad=False)
        # No parameter: libraries take a model's data type from its first floating-point one.
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The expanded weight ``[out_features, in_features]``: a copy, made at every access."""
        return expand(self.kind, self.packed, self.compute_dtype, self.scale)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Apply the layer to ``[..., in_features]``."""
        if torch.is_grad_enabled() and input.requires_grad:
            return _Frozen.apply(input, self.bias, self)
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Describe the layer in a printed model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.kind}"


class _Frozen(torch.autograd.Function):
    """The linear function that saves no weight: the layer holds it anyway, packed."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: QuantisedLinear
    ) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return grad @ ctx.layer.weight, None, None
