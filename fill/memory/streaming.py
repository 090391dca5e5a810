"""Runs a model of which only a part fits on the device: blocks come and go as they are needed.

Host memory keeps every weight; the device gets what fits for good, and two slots through which the
remaining blocks pass. While one block computes, the next is on its way. Weights are never written
back, so leaving costs nothing.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..transformer.modulation import HostLinear
from .components import NUM_SLOTS

logger = logging.getLogger("onereward.fill")

ALIGNMENT = 256
"""Bytes; what the allocators of devices align to."""


@contextmanager
def stream_blocks(module: nn.Module, device: torch.device, weight_bytes: int) -> Iterator[None]:
    """Let a module compute on a device that does not hold all of it; for use without gradient.

    Args:
        module: A model with its blocks in one or more ``nn.ModuleList``; weights that a failed move
            left on a device come back to host memory.
        device: Where to compute.
        weight_bytes: What weights may take there. What is outside of the blocks, and two slots
            of the largest block's size, are needed in any case.
    """
    with torch.inference_mode(False), torch.no_grad():
        module.to("cpu")
        stream = _Stream(module, device, weight_bytes)
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            stream.close()


def num_bytes(module: nn.Module) -> int:
    """Return the size of a module's parameters and buffers."""
    return sum(t.nbytes for t in _tensors(module))


def least_bytes(module: nn.Module) -> int:
    """Return what the weights of a module take on a device at least while it is streamed."""
    blocks = find_blocks(module)
    outside = num_bytes(module) - sum(num_bytes(block) for block in blocks)
    largest = max(sum(_aligned(t.nbytes) for t in _tensors(block)) for block in blocks)
    return outside + NUM_SLOTS * largest


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model in the order in which they are used: outermost lists only.

    Raises:
        ValueError: It has none.
    """
    lists = {name: m for name, m in module.named_modules() if isinstance(m, nn.ModuleList)}
    blocks: list[nn.Module] = []
    for name, block_list in lists.items():
        if not any(name.startswith(f"{outer}.") for outer in lists):
            blocks.extend(block_list)
    if not blocks:
        raise ValueError(f"a {type(module).__name__} has no blocks to stream")
    return blocks


def choose_streamed(sizes: Sequence[int], budget: int) -> list[int]:
    """Return which blocks pass through the slots: as few as needed, evenly spread.

    Spread, each has the time of several resident blocks to arrive.

    Args:
        sizes: Bytes of every block.
        budget: Bytes that resident blocks may take together.
    """
    total, count = sum(sizes), len(sizes)
    for num in range(count + 1):
        streamed = [i * count // num for i in range(num)]
        if total - sum(sizes[i] for i in streamed) <= budget:
            return streamed
    return list(range(count))


class _Stream:
    """The hooks, slots and host copies of one module."""

    def __init__(self, module: nn.Module, device: torch.device, weight_bytes: int) -> None:
        blocks = find_blocks(module)
        sizes = [num_bytes(block) for block in blocks]
        budget = weight_bytes - least_bytes(module)
        streamed = [blocks[i] for i in choose_streamed(sizes, budget)]
        inside = {id(t) for block in streamed for t in _tensors(block)}
        self._device = device
        self._moved = [(t, t.data) for t in _tensors(module) if id(t) not in inside]
        self._hooks: list[Any] = []
        self._is_cuda = device.type == "cuda"
        self._copying = torch.cuda.Stream(device) if self._is_cuda else None
        self._parked = [_Parked(block) for block in streamed]
        self._locked = [p.flat for p in self._parked if _lock(p.flat)] if self._is_cuda else []
        largest = max((parked.flat.numel() for parked in self._parked), default=0)
        try:
            for tensor, data in self._moved:
                tensor.data = data.to(device)
            self._slots = [_Slot(largest, device) for _ in self._parked[:NUM_SLOTS]]
            if self._copying is not None:
                # The slots may be memory that kernels of before still work on.
                self._copying.wait_stream(torch.cuda.current_stream(device))
        except BaseException:
            self.close()
            raise
        for index, parked in enumerate(self._parked):
            self._hooks += [
                parked.block.register_forward_pre_hook(lambda *_, i=index: self._before(i)),
                parked.block.register_forward_hook(lambda *_, i=index: self._after(i)),
            ]
        logger.debug("%d of %d blocks are streamed to %s", len(streamed), len(blocks), self._device)

    def close(self) -> None:
        """Take everything off the device."""
        for hook in self._hooks:
            hook.remove()
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
        for tensor, data in self._moved:
            tensor.data = data
        for parked in self._parked:
            parked.back_to_host()
        for flat in self._locked:
            _runtime().cudaHostUnregister(flat.data_ptr())
        self._slots = []

    def _before(self, index: int) -> None:
        with torch.inference_mode(False), torch.no_grad():
            slot = self._slots[index % len(self._slots)]
            if slot.holds != index:
                self._fetch(index, slot)
            if slot.copied is not None:
                torch.cuda.current_stream(self._device).wait_event(slot.copied)
            self._parked[index].into(slot.buffer)
            following = (index + 1) % len(self._parked)
            next_slot = self._slots[following % len(self._slots)]
            if next_slot is not slot and next_slot.holds != following:
                self._fetch(following, next_slot)

    def _after(self, index: int) -> None:
        slot = self._slots[index % len(self._slots)]
        if self._is_cuda:
            slot.used = torch.cuda.current_stream(self._device).record_event()
        with torch.inference_mode(False), torch.no_grad():
            self._parked[index].back_to_host()

    def _fetch(self, index: int, slot: _Slot) -> None:
        flat = self._parked[index].flat
        slot.holds = index
        if self._copying is None:
            slot.buffer[: flat.numel()].copy_(flat)
            return
        with torch.cuda.stream(self._copying):
            if slot.used is not None:
                self._copying.wait_event(slot.used)
            slot.buffer[: flat.numel()].copy_(flat, non_blocking=True)
            slot.copied = self._copying.record_event()


class _Slot:
    """Room for one block on the device."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.buffer = torch.empty(size, dtype=torch.uint8, device=device)
        self.holds: int | None = None
        self.copied: Any = None
        self.used: Any = None


class _Parked:
    """A block whose weights lie one after the other in host memory, to be copied at once."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self._tensors = list(_tensors(block))
        self._sizes = [t.nbytes for t in self._tensors]
        flat = self._find_flat()
        self.flat = self._make_flat() if flat is None else flat
        self._host = [t.data for t in self._tensors]

    def into(self, buffer: torch.Tensor) -> None:
        """Let the block's weights be what the buffer holds."""
        start = 0
        for tensor, host, size in zip(self._tensors, self._host, self._sizes, strict=True):
            tensor.data = buffer[start : start + size].view(host.dtype).view(host.shape)
            start += _aligned(size)

    def back_to_host(self) -> None:
        """Let the block's weights be those in host memory."""
        for tensor, data in zip(self._tensors, self._host, strict=True):
            tensor.data = data

    def _find_flat(self) -> torch.Tensor | None:
        """Return the buffer that an earlier run made, if the weights still lie in it."""
        start = 0
        storage = self._tensors[0].untyped_storage()
        for tensor, size in zip(self._tensors, self._sizes, strict=True):
            if tensor.data_ptr() != storage.data_ptr() + start:
                return None
            start += _aligned(size)
        if storage.nbytes() != start or storage.device.type != "cpu":
            return None
        return torch.empty(0, dtype=torch.uint8).set_(storage)

    def _make_flat(self) -> torch.Tensor:
        flat = torch.empty(sum(_aligned(size) for size in self._sizes), dtype=torch.uint8)
        start = 0
        for tensor, size in zip(self._tensors, self._sizes, strict=True):
            view = flat[start : start + size].view(tensor.dtype).view(tensor.shape)
            view.copy_(tensor.data)
            tensor.data = view  # the old one is freed: host memory never holds two models
            start += _aligned(size)
        return flat


def _lock(flat: torch.Tensor) -> bool:
    """Keep memory from being swapped out, for only such is copied while the device computes.

    In place: memory that PyTorch allocates page-locked is rounded up to a power of two.
    """
    if _runtime().cudaHostRegister(flat.data_ptr(), flat.nbytes, 0) == 0:
        return True
    _warn_unlocked()
    return False


def _runtime() -> Any:
    return torch.cuda.cudart()


@functools.cache
def _warn_unlocked() -> None:
    logger.warning("the system locks no more memory for the GPU: streaming is slower")


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield what has to be on the device; weights that stay in host memory do not."""
    on_host = {id(p) for m in module.modules() if type(m) is HostLinear for p in m.parameters()}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in on_host:
            yield tensor


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
