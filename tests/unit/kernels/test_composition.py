"""The operations under torch.compile, gradient checkpointing and with modules around them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from onereward import kernels
from support.kernel_cases import Case, angles

SHAPES = ((1, 2, 16), (1, 2, 16), (1, 16), (1, 16), (1, 16), (8,), (8,))


def _chain(*tensors: Tensor) -> Tensor:
    """Every operation once, with unfused ones in between."""
    x, update, gate, scale, shift, a, b = tensors
    h, y = kernels.gated_residual_adaln(x, gate, update * 2, (scale, shift))
    y = kernels.adaln_modulate(y.sin(), scale, shift)
    q, k = kernels.qk_norm_rope(y.view(1, 2, 2, 8), y.view(1, 2, 2, 8), a, b, angles(2, 8, x.dtype))
    mixed = kernels.concat_gelu((q + k).flatten(2), kernels.gelu_tanh(y))
    h = kernels.gated_residual(h, gate, mixed[..., :16] + mixed[..., 16:])
    stepped, x0 = kernels.cfg_euler_step(h, y, (0.5, 0.25))
    return (stepped * x0.cos()).sum()


@pytest.fixture
def inputs() -> list[Tensor]:
    case = Case(shapes=SHAPES, fused=_chain, plain=_chain)
    return [x.float().requires_grad_() for x in case.inputs()]


def _value_and_gradients(call: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    value = call(*inputs)
    return [value, *torch.autograd.grad(value, inputs)]


def test_compiles_without_graph_breaks(inputs: list[Tensor]):
    with kernels.use_backend("triton"):
        eager = _value_and_gradients(_chain, inputs)
        torch.compiler.reset()
        compiled = torch.compile(_chain, fullgraph=True, backend="aot_eager")
        for result, expected in zip(_value_and_gradients(compiled, inputs), eager, strict=True):
            assert torch.equal(result, expected)


def test_checkpointing_gives_the_same_gradients(inputs: list[Tensor]):
    def recomputed(*tensors: Tensor) -> Tensor:
        return checkpoint(_chain, *tensors, use_reentrant=False)

    with kernels.use_backend("triton"):
        plain = _value_and_gradients(_chain, inputs)
        for result, expected in zip(_value_and_gradients(recomputed, inputs), plain, strict=True):
            assert torch.equal(result, expected)


def test_second_derivatives_are_refused(inputs: list[Tensor]):
    x, weight, *_ = inputs
    with kernels.use_backend("triton"):
        value = kernels.gelu_tanh(x)
    (slope,) = torch.autograd.grad(value, x, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.sum().backward()


def test_gradients_that_nobody_wants_are_not_made(inputs: list[Tensor]):
    x, update, gate, scale, shift, *_ = inputs
    frozen = [t.detach() for t in (gate, scale, shift)]
    with kernels.use_backend("triton"):
        h, y = kernels.gated_residual_adaln(x, frozen[0], update, (frozen[1], frozen[2]))
    assert y.grad_fn is not None
    saved = [t for t in y.grad_fn.saved_tensors if t is not None]  # type: ignore[attr-defined]
    assert not any(t.data_ptr() == update.data_ptr() for t in saved), "the update need not wait"
    grads = torch.autograd.grad([h.sum(), y.sum()], (x, update))
    assert all(g.isfinite().all() for g in grads)
