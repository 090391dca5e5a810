"""A small least-recently-used store of tensors, limited in bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable

import torch


class TensorCache:
    """Keeps tensors on the CPU; the oldest go first. Example: ``TensorCache(256 << 20)``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[Hashable, tuple[torch.Tensor, ...]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[torch.Tensor, ...] | None:
        """Return what was stored under the key, or None."""
        tensors = self._items.get(key)
        if tensors is not None:
            self._items.move_to_end(key)
        return tensors

    def put(self, key: Hashable, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Store and return CPU copies that are safe to train on: they outlive inference mode."""
        with torch.inference_mode(False):
            copies = tuple(t.detach().to("cpu", copy=True) for t in tensors)
        self._items[key] = copies
        while len(self._items) > 1 and self._num_bytes() > self._max_bytes:
            self._items.popitem(last=False)
        return copies

    def _num_bytes(self) -> int:
        return sum(t.nbytes for item in self._items.values() for t in item)


def digest(*tensors: torch.Tensor) -> str:
    """Return a hash of the tensors' shapes, types and contents."""
    state = hashlib.blake2b(digest_size=16)
    for t in tensors:
        state.update(f"{t.dtype}{tuple(t.shape)}".encode())
        state.update(t.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
