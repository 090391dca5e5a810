"""The adapted linear layer against PEFT's way of computing it, and against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from onereward import kernels
from support.kernel_cases import Case, run
from support.tolerance import assert_as_exact

SCALING = 0.75


def _fused(x: Tensor, weight: Tensor, bias: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return kernels.lora_linear(x, weight, bias, down, up, SCALING)


def _plain(x: Tensor, weight: Tensor, bias: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return F.linear(x, weight, bias) + F.linear(F.linear(x, down), up) * SCALING


def _case(rank: int) -> Case:
    shapes = ((2, 3, 10), (7, 10), (7,), (rank, 10), (7, rank))
    return Case(shapes=shapes, fused=_fused, plain=_plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rank", [1, 4])
def test_as_exact_as_peft(rank: int, dtype: torch.dtype):
    case = _case(rank)
    truth = run(case.plain, case.inputs(), torch.float64)
    plain = run(case.plain, case.inputs(), dtype)
    for i, (a, b, c) in enumerate(
        zip(run(case.fused, case.inputs(), dtype), plain, truth, strict=True)
    ):
        assert_as_exact(a, b, c, f"result {i}")


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(_fused, [x.requires_grad_() for x in _case(2).inputs()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fresh_adapter_changes_no_bit(dtype: torch.dtype):
    x, weight, bias, down, up = (t.to(dtype) for t in _case(4).inputs())
    layer = F.linear(x, weight, bias)
    assert torch.equal(kernels.lora_linear(x, weight, bias, down, up * 0, 1.0), layer)


def test_float32_masters_get_float32_gradients():
    x, weight, bias, down, up = _case(4).inputs()
    half = [t.bfloat16() for t in (x, weight, bias)]
    masters = [t.float().requires_grad_() for t in (down, up)]
    y = kernels.lora_linear(*half, *masters, SCALING)  # type: ignore[call-arg]
    assert y.dtype is torch.bfloat16
    grads = torch.autograd.grad(y.float().sum(), masters)
    exact = [t.requires_grad_() for t in (down, up)]
    truth = torch.autograd.grad(_plain(x, weight, bias, *exact).sum(), exact)
    plain = [t.bfloat16().requires_grad_() for t in (down, up)]
    rough = torch.autograd.grad(_plain(*half, *plain).sum(), plain)
    for result, expected, truth_value in zip(grads, rough, truth, strict=True):
        assert result.dtype is torch.float32
        assert_as_exact(result.bfloat16(), expected, truth_value)


def test_nothing_wide_is_kept_for_the_backward():
    x, weight, bias, down, up = (t.float().requires_grad_() for t in _case(4).inputs())
    y = _fused(x, weight.detach(), bias.detach(), down, up)
    saved = y.grad_fn.saved_tensors  # type: ignore[union-attr]
    assert max(t.numel() for t in saved) <= weight.numel(), "no tensor as wide as the output"
