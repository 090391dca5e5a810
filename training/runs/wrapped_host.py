"""A host for one of many equal parts of a run: its progress is a piece of the whole run's bar."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from ...fill.host import Host, Preview
from ...fill.memory.components import Component

TICKS = 1000
"""Ticks of the whole bar per part."""


class WrappedHost:
    """Passes everything on to the run's own host, and progress as a share of part ``number``.

    Args:
        host: The run's host.
        number: Which part, from 0.
        total: Number of parts.
    """

    def __init__(self, host: Host, number: int, total: int) -> None:
        self._host, self._number, self._total = host, number, total

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self._host.device

    def resident(self, *parts: Component, activation_bytes: int) -> AbstractContextManager[None]:
        """Have the parts on the device inside the context."""
        return self._host.resident(*parts, activation_bytes=activation_bytes)

    def streamed(
        self, part: Component, *, weight_bytes: int, activation_bytes: int
    ) -> AbstractContextManager[None]:
        """Let a part compute on the device while most of it is in host memory."""
        return self._host.streamed(
            part, weight_bytes=weight_bytes, activation_bytes=activation_bytes
        )

    def free_bytes(self, *parts: Component) -> int:
        """Return the memory left for activations if exactly these parts were on the device."""
        return self._host.free_bytes(*parts)

    def progress(self, done: int, total: int, preview: Preview | None = None) -> None:
        """Move the whole run's bar."""
        ticks = self._number * TICKS + done * TICKS // max(total, 1)
        self._host.progress(ticks, self._total * TICKS, preview)

    def check_cancelled(self) -> None:
        """Raise the host's own exception if the user cancelled."""
        self._host.check_cancelled()

    def notify(self, text: str) -> None:
        """Show one line to the user."""
        self._host.notify(text)
