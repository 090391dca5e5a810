"""A host for a plain Python process: one device, parts moved on and off as they are needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .host import Preview
from .memory.components import Component
from .memory.streaming import stream_blocks

logger = logging.getLogger("onereward.fill")


class LocalHost:
    """Keeps on the device what the current stage needs; everything waits in host memory between.

    Args:
        device: Where to compute; None: CUDA if there is one, else the CPU.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self._device

    @contextmanager
    def resident(self, *parts: Component, activation_bytes: int) -> Iterator[None]:
        """Move the parts to the device for the time of the context."""
        del activation_bytes
        try:
            with torch.inference_mode(False), torch.no_grad():
                for part in parts:
                    part.module.to(self._device)
            yield
        finally:
            if self._device.type != "cpu":
                with torch.inference_mode(False), torch.no_grad():
                    for part in filter(lambda part: part.is_loaded, parts):
                        part.module.to("cpu")

    @contextmanager
    def streamed(
        self, part: Component, *, weight_bytes: int, activation_bytes: int
    ) -> Iterator[None]:
        """Let the part's blocks pass through the device for the time of the context."""
        del activation_bytes
        with stream_blocks(part.module, self._device, weight_bytes):
            yield

    def free_bytes(self, *parts: Component) -> int:
        """Return the free memory of the device less what the parts will take."""
        needed = sum(part.num_bytes for part in parts if not self._counts_already(part))
        if self._device.type == "cuda":
            # What PyTorch keeps for later tensors is free, though the driver counts it as taken.
            kept = torch.cuda.memory_reserved(self._device)
            kept -= torch.cuda.memory_allocated(self._device)
            return torch.cuda.mem_get_info(self._device)[0] + kept - needed
        import psutil

        return psutil.virtual_memory().available - needed

    def _counts_already(self, part: Component) -> bool:
        return self._device.type == "cpu" and part.is_loaded

    def progress(self, done: int, total: int, preview: Preview | None = None) -> None:
        """Log at debug level; a plain process shows no images."""
        del preview
        logger.debug("model call %d of %d", done, total)

    def check_cancelled(self) -> None:
        """Do nothing: Ctrl-C raises by itself."""

    def notify(self, text: str) -> None:
        """Log the line."""
        logger.info("%s", text)
