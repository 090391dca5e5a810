"""One component of a fill model that is packed while it is loaded, wherever it comes from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..checkpoint.component import FileComponent
from ..checkpoint.packing import pack_linears, packed_bytes
from .folder_component import FolderComponent


class PackedComponent:
    """A component whose blocks are packed as it is loaded.

    Example: ``PackedComponent(FolderComponent('transformer', path), 'nf4')``.

    Args:
        source: The component as it is stored.
        precision: ``fp8`` (half of bf16) or ``nf4`` (a bit more than a quarter).
    """

    is_quantised = True

    def __init__(self, source: FolderComponent | FileComponent, precision: str) -> None:
        self._source, self.precision = source, precision
        self.name, self.path, self.config = source.name, source.path, source.config
        self.tensors = source.tensors

    @property
    def files(self) -> list[Path]:
        """The files of its weights, as they are stored."""
        return self._source.files

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return the memory of the loaded weights, in bytes."""
        return sum(self.tensor_bytes(dtype).values())

    def loading_bytes(self, dtype: torch.dtype) -> int:
        """Return what host memory holds before anything is packed, in bytes."""
        return self._source.num_bytes(dtype)

    def tensor_bytes(self, dtype: torch.dtype) -> dict[str, int]:
        """Return the same for every weight, by name."""
        return packed_bytes(self.tensors, self._source.tensor_bytes(dtype), self.precision)

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Read the weights and pack them; they compute in ``dtype``."""
        module = self._source.load(dtype)
        pack_linears(module, self.precision)
        return module
