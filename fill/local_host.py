"""A host for a plain Python process: one device, components moved on and off as they are needed."""

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

    Example: ``run_fill(request, models, LocalHost('cuda'))``.

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
    def resident(self, *components: Component, activation_bytes: int) -> Iterator[None]:
        """Move the components to the device for the time of the context."""
        del activation_bytes
        try:
            with torch.inference_mode(False), torch.no_grad():
                for component in components:
                    component.module.to(self._device)
            yield
        finally:
            if self._device.type != "cpu":
                with torch.inference_mode(False), torch.no_grad():
                    for component in filter(lambda component: component.is_loaded, components):
                        component.module.to("cpu")

    @contextmanager
    def streamed(
        self, component: Component, *, weight_bytes: int, activation_bytes: int
    ) -> Iterator[None]:
        """Let the component's blocks pass through the device for the time of the context."""
        del activation_bytes
        with stream_blocks(component.module, self._device, weight_bytes):
            yield

    def free_bytes(self, *components: Component) -> int:
        """Return the free memory of the device less what the components will take."""
        is_cpu = self._device.type == "cpu"  # where what is loaded is no longer free
        needed = sum(c.num_bytes for c in components if not (is_cpu and c.is_loaded))
        if self._device.type == "cuda":
            # What PyTorch keeps for later tensors is free, though the driver counts it as taken.
            cached = torch.cuda.memory_reserved(self._device)
            cached -= torch.cuda.memory_allocated(self._device)
            return torch.cuda.mem_get_info(self._device)[0] + cached - needed
        import psutil

        return psutil.virtual_memory().available - needed

    def progress(self, step: int, total: int, preview: Preview | None = None) -> None:
        """Log at debug level; a plain process shows no images."""
        del preview
        logger.debug("model call %d of %d", step, total)

    def check_cancelled(self) -> None:
        """Do nothing: Ctrl-C raises by itself."""

    def notify(self, text: str) -> None:
        """Log the line."""
        logger.info("%s", text)
