"""One separately placed model of a pipeline, read from disk at its first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn


class Part:
    """A transformer, VAE or text encoder that a host places as a whole.

    Loading waits until a host needs the part, so bad input is refused before any weight is read.

    Attributes:
        name: What it is: ``transformer``, ``vae``, ``text_encoder`` or ``text_encoder_2``.
        num_bytes: Size of its weights once loaded, in bytes.
        dtype: Data type of its floating-point weights.
        handle: Bookkeeping of the host that manages the part; lives as long as the part does.
    """

    def __init__(
        self, name: str, load: Callable[[], nn.Module], num_bytes: int, dtype: torch.dtype
    ) -> None:
        self.name = name
        self.num_bytes = num_bytes
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
            with torch.inference_mode(False), torch.no_grad():
                self._module = self._load().eval().requires_grad_(False)
        return self._module

    def forget(self) -> None:
        """Take the weights out of all memory; the next use reads them again."""
        self.handle = self._module = None
