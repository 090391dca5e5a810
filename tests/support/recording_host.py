"""Hosts for tests: a local one that records what the engine asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from onereward.fill.host import Preview
from onereward.fill.local_host import LocalHost
from onereward.fill.memory.components import Component


class CancelledError(Exception):
    """What this host raises when the user cancels.

    Example: ``with pytest.raises(CancelledError): run_fill(request, models, RecordingHost(3))``.
    """


class RecordingHost(LocalHost):
    """Runs on the CPU, keeps a record, can cancel and can be short of memory.

    Example: ``host = RecordingHost(cancel_at_call=3)``; afterwards ``host.steps``.
    """

    def __init__(self, cancel_at_call: int | None = None, free: int = 1 << 40) -> None:
        super().__init__("cpu")
        self.lines: list[str] = []
        self.resident_names: list[tuple[str, ...]] = []
        self.streamed_names: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.previews: list[torch.Tensor] = []
        self.calls = 0
        self._cancel_at_call = cancel_at_call
        self._free = free

    @contextmanager
    def resident(self, *components: Component, activation_bytes: int) -> Iterator[None]:
        self.resident_names.append(tuple(component.name for component in components))
        assert activation_bytes > 0
        with super().resident(*components, activation_bytes=activation_bytes):
            yield

    @contextmanager
    def streamed(
        self, component: Component, *, weight_bytes: int, activation_bytes: int
    ) -> Iterator[None]:
        self.streamed_names.append(component.name)
        assert activation_bytes > 0
        with super().streamed(
            component, weight_bytes=weight_bytes, activation_bytes=activation_bytes
        ):
            yield

    def free_bytes(self, *components: Component) -> int:
        return self._free

    def progress(self, step: int, total: int, preview: Preview | None = None) -> None:
        self.steps.append((step, total))
        if preview is not None:
            self.previews.append(preview())

    def check_cancelled(self) -> None:
        self.calls += 1
        if self._cancel_at_call is not None and self.calls >= self._cancel_at_call:
            raise CancelledError

    def notify(self, text: str) -> None:
        self.lines.append(text)
