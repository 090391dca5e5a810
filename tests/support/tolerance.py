"""The one rule for how exact a kernel has to be, and the numbers it needs."""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1.5
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3, torch.float64: 1e-14}
"""What is added for results whose plain path happens to be nearly exact."""

MODEL_SLACK = 10
"""How many times the floor two equal models may be apart after several blocks."""
MODEL_LIMIT = 8e-3
"""How far apart they may be at most: 1 % is another model."""


def error(found: Tensor, truth: Tensor) -> float:
    """Return the relative L2 distance from the truth; absolute where the truth is zero."""
    exact = truth.detach().double()
    distance = (found.detach().double() - exact).norm()
    return float(distance / (exact.norm() if exact.any() else 1.0))


def assert_as_exact(found: Tensor, plain: Tensor, truth: Tensor, what: str = "result") -> None:
    """Fail if ``found`` is farther from the truth than the plain path of the same data type.

    Args:
        found: From the kernel.
        plain: The same from unfused operations in the same data type.
        truth: The same in float64, from the same inputs.
        what: Name for the message.
    """
    assert found.shape == truth.shape, f"{what} is {found.shape}, but {truth.shape} is expected"
    assert found.dtype == plain.dtype, f"{what} is {found.dtype}, but {plain.dtype} is expected"
    limit = SLACK * error(plain, truth) + FLOOR[found.dtype]
    assert error(found, truth) <= limit, f"{what} is off by {error(found, truth):.2e} > {limit:.2e}"


def assert_equal_models(found: Tensor, plain: Tensor, what: str = "result") -> None:
    """Fail if two models that should compute the same are apart by more than rounding."""
    assert found.shape == plain.shape, f"{what} is {found.shape}, but {plain.shape} is expected"
    limit = min(MODEL_SLACK * FLOOR[found.dtype], MODEL_LIMIT)
    assert error(found, plain) <= limit, f"{what} is off by {error(found, plain):.2e} > {limit:.2e}"
