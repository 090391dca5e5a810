"""The state of an optimiser as named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def flatten_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return an optimiser's state as `prefix.<parameter>.<name>`, longer for what is nested.

    bitsandbytes nests its state, counts steps in a Python number, and shares one table among all.
    """
    return _flatten(optimizer.state_dict()["state"], prefix)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Load what `flatten_optimizer` returned into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix + "."):
            index, *path, name = key[len(prefix) + 1 :].split(".")
            values = state.setdefault(int(index), {})
            for key_part in path:
                values = values.setdefault(key_part, {})
            # PyTorch's own optimisers count in floats: a whole number was a Python number.
            is_int = value.ndim == 0 and value.dtype == torch.int64
            values[name] = int(value) if is_int else value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _flatten(value: Any, name: str) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {name: value if isinstance(value, Tensor) else torch.tensor(value)}
    tensors: dict[str, Tensor] = {}
    for key, inner in value.items():
        tensors |= _flatten(inner, f"{name}.{key}")
    return tensors
