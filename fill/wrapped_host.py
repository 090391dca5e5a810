"""A host around another one: for a step of a longer run, for silent work, for less memory."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import torch

from .host import Host, Preview
from .memory.components import Component

logger = logging.getLogger("onereward.fill")

TICKS = 1000
"""Ticks of the whole progress bar per step."""


class WrappedHost:
    """Forwards everything to another host, apart from what the options change.

    Example: ``WrappedHost(host, share=(2, 10))`` moves the third tenth of the host's bar.

    Args:
        host: The host that does the work.
        share: Index and number of equal steps of a longer run: progress moves that step's share.
        quiet: Progress moves no bar and only polls for cancel.
        max_bytes: Bytes that weights and computation may take together; None: all that is free.
    """

    def __init__(
        self,
        host: Host,
        *,
        share: tuple[int, int] | None = None,
        quiet: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self._host, self._share, self._quiet, self._max_bytes = host, share, quiet, max_bytes

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self._host.device

    def resident(
        self, *components: Component, activation_bytes: int
    ) -> AbstractContextManager[None]:
        """Have the components on the device inside the context."""
        return self._host.resident(*components, activation_bytes=activation_bytes)

    def streamed(
        self, component: Component, *, weight_bytes: int, activation_bytes: int
    ) -> AbstractContextManager[None]:
        """Let a component compute on the device while most of it is in host memory."""
        return self._host.streamed(
            component, weight_bytes=weight_bytes, activation_bytes=activation_bytes
        )

    def free_bytes(self, *components: Component) -> int:
        """Return the memory left for activations, within the limit."""
        free = self._host.free_bytes(*components)
        if self._max_bytes is None:
            return free
        return min(free, self._max_bytes - sum(component.num_bytes for component in components))

    def progress(self, step: int, total: int, preview: Preview | None = None) -> None:
        """Move the other host's bar, this step's share of it, or none."""
        if self._quiet:
            self.check_cancelled()
            return
        if self._share is not None:
            index, count = self._share
            step, total = index * TICKS + step * TICKS // max(total, 1), count * TICKS
        self._host.progress(step, total, preview)

    def check_cancelled(self) -> None:
        """Raise the host's own exception if the user cancelled."""
        self._host.check_cancelled()

    def notify(self, text: str) -> None:
        """Show one line to the user; of equal steps the first one speaks, the others log."""
        if self._share is None or self._share[0] == 0:
            self._host.notify(text)
        else:
            logger.info("%s", text)
