"""How much memory a computation's tensors take at the same time, on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
PRODUCTS = {
    *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.convolution.default),
    aten._scaled_dot_product_flash_attention_for_cpu.default,
}
"""What takes the time of a model, and a minute per layer without native bfloat16."""


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of what operations make inside the context, until it is freed.

    Example: ``with LiveMemory(model.parameters()) as memory: model(x)``; then ``memory.peak``.

    Args:
        weights: Tensors that were there before and do not count.
        has_values: Whether products are computed; if not they are zeros of the same size, so that
            only the memory means something.

    Attributes:
        peak: The most that was alive at once, in bytes.
    """

    def __init__(self, weights: Iterable[torch.Tensor], *, has_values: bool = True) -> None:
        super().__init__()
        self.peak = 0
        self._has_values = has_values
        self._given = {tensor.untyped_storage().data_ptr() for tensor in weights}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count what it returns."""
        run = func if self._has_values or func not in PRODUCTS else _zeros_of(func)
        result = run(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._given:
                    self._alive[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {at: entry for at, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def _zeros_of(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose results are zeros of the shapes, types and strides of another's."""

    def run(*args: Any, **kwargs: Any) -> Any:
        tensor_args, tensor_kwargs = tree_map_only(
            torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs)
        )
        return tree_map_only(
            torch.Tensor,
            lambda tensor: torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype
            ).zero_(),
            func(*tensor_args, **tensor_kwargs),
        )

    return run


class SavedBytes:
    """Counts what is kept for a backward pass, each storage once.

    Example: ``with saved_tensors_hooks(SavedBytes(weights).count, lambda tensor: tensor): ...``.

    Args:
        weights: Tensors that were there before and do not count.
    """

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        self._given = {tensor.untyped_storage().data_ptr() for tensor in weights}
        self._kept: dict[int, torch.Tensor] = {}

    @property
    def total(self) -> int:
        """All bytes so far."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor and return it."""
        address = tensor.untyped_storage().data_ptr()
        if address not in self._given:
            self._kept[address] = tensor
        return tensor
