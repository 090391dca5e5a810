"""The one rule for how exact a kernel has to be, and the numbers it needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SLACK = 1.5
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3, torch.float64: 1e-14}
"""What is added for results whose plain path happens to be nearly exact."""

MODEL_SLACK = 10
"""How many times the floor two equal models may be apart after several blocks."""
MODEL_LIMIT = 8e-3
"""How far apart they may be at most: 1 % is another model."""


def error(result: Tensor, truth: Tensor) -> float:
    """Return the relative L2 distance from the truth; absolute where the truth is zero."""
    exact = truth.detach().double()
    distance = (result.detach().double() - exact).norm()
    return float(distance / (exact.norm() if exact.any() else 1.0))


def assert_as_exact(result: Tensor, plain: Tensor, truth: Tensor, what: str = "result") -> None:
    """Fail if ``result`` is farther from the truth than the plain path of the same data type.

    Args:
        result: From the kernel.
        plain: The same from unfused operations in the same data type.
        truth: The same in float64, from the same inputs.
        what: Name for the message.
    """
    assert result.shape == truth.shape, f"{what} is {result.shape}, but {truth.shape} is expected"
    assert result.dtype == plain.dtype, f"{what} is {result.dtype}, but {plain.dtype} is expected"
    limit = SLACK * error(plain, truth) + FLOOR[result.dtype]
    assert error(result, truth) <= limit, (
        f"{what} is off by {error(result, truth):.2e} > {limit:.2e}"
    )


def assert_model_as_exact(
    results: Sequence[Tensor], plain: Sequence[Tensor], truth: Sequence[Tensor]
) -> None:
    """Fail if the results of a model are farther from the truth than those of the plain path.

    After many layers the error of a single gradient is chance: two paths that are equally exact
    differ by a factor of five either way. So the rule for one operation holds for the root mean
    square over all results, and each result alone gets the floor of a whole model.
    """
    floor = FLOOR[results[0].dtype]
    errors, plain_errors = [], []
    for i, (a, b, exact) in enumerate(zip(results, plain, truth, strict=True)):
        assert a.shape == exact.shape, f"result {i} is {a.shape}, but {exact.shape} is expected"
        assert a.dtype == b.dtype, f"result {i} is {a.dtype}, but {b.dtype} is expected"
        errors.append(error(a, exact))
        plain_errors.append(error(b, exact))
        rounding = SLACK * plain_errors[i]
        limit = max(rounding + floor, min(rounding + MODEL_SLACK * floor, MODEL_LIMIT))
        assert errors[i] <= limit, f"result {i} is off by {errors[i]:.2e} > {limit:.2e}"
    root_mean_square = math.hypot(*errors) / math.sqrt(len(errors))
    limit = SLACK * math.hypot(*plain_errors) / math.sqrt(len(errors)) + floor
    assert root_mean_square <= limit, f"all are off by {root_mean_square:.2e} > {limit:.2e}"


def assert_equal_models(result: Tensor, plain: Tensor, what: str = "result") -> None:
    """Fail if two models that should compute the same are apart by more than rounding."""
    assert result.shape == plain.shape, f"{what} is {result.shape}, but {plain.shape} is expected"
    limit = min(MODEL_SLACK * FLOOR[result.dtype], MODEL_LIMIT)
    assert error(result, plain) <= limit, (
        f"{what} is off by {error(result, plain):.2e} > {limit:.2e}"
    )
