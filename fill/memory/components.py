"""One separately placed model of a pipeline, read from disk at its first use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

NUM_SLOTS = 2
"""Blocks on a device at the same time while all pass through it: one computes, one arrives."""


class Component:
    """A transformer, VAE or text encoder that a host places as a whole.

    Loading waits until a host needs it, so bad input is refused before any weight is read.

    Example: ``Component('vae', load, num_bytes=168 << 20, dtype=torch.bfloat16)``.

    Attributes:
        name: What it is: ``transformer``, ``vae``, ``text_encoder`` or ``text_encoder_2``.
        num_bytes: Size of its weights once loaded, in bytes.
        least_bytes: What they take on a device at least while its blocks pass through, in bytes;
            None if it has no blocks.
        expansion_bytes: What its largest packed layer takes on the device while it is used.
        loading_bytes: What host memory holds while they are read, in bytes.
        dtype: Data type of its floating-point weights.
        handle: Bookkeeping of the host that manages the component; lives as long as it does.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], nn.Module],
        num_bytes: int,
        dtype: torch.dtype,
        least_bytes: int | None = None,
        loading_bytes: int | None = None,
    ) -> None:
        self.name = name
        self.num_bytes = num_bytes
        self.least_bytes = least_bytes
        self.loading_bytes = num_bytes if loading_bytes is None else loading_bytes
        self.expansion_bytes = 0
        self.dtype = dtype
        self.handle: Any = None
        self._load = load
        self._module: nn.Module | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the weights have been read."""
        return self._module is not None

    @property
    def module(self) -> nn.Module:
        """The model in evaluation mode; the first access reads its weights into host memory.

        A model born in inference mode could never be trained, hence the explicit way out of it.
        """
        if self._module is None:
            self._check_host_memory()
            with torch.inference_mode(False), torch.no_grad():
                self._module = self._load().eval().requires_grad_(False)
        return self._module

    def _check_host_memory(self) -> None:
        """Raise MemoryError if the weights are larger than the computer's memory.

        Without this check the system would end the process half-way through.
        """
        import psutil

        free = psutil.virtual_memory().available + psutil.swap_memory().free
        if self.loading_bytes > free:
            raise MemoryError(
                f"{self.name} takes {self.loading_bytes / 2**30:.1f} GB of the computer's memory, "
                f"but {free / 2**30:.1f} GB are free; choose an fp8 or GGUF file, or close other "
                "programs"
            )

    def forget(self) -> None:
        """Take the weights out of all memory; the next use reads them again."""
        self.handle = self._module = None


def least_bytes(tensor_bytes: Mapping[str, int]) -> int | None:
    """Return what a model takes on a device while its blocks pass through; None without blocks.

    Args:
        tensor_bytes: Size of every weight by its name; blocks are numbered, ``blocks.0.attn``.
    """
    blocks: dict[str, int] = {}
    outside = 0
    for name, size in tensor_bytes.items():
        if match := re.match(r"(.*?\.\d+)\.", name):
            blocks[match[1]] = blocks.get(match[1], 0) + size
        else:
            outside += size
    return outside + NUM_SLOTS * max(blocks.values()) if blocks else None
