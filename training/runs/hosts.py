"""A host for training in a plain process: models stay on the device while there is room."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...fill.local_host import LocalHost
from ...fill.memory.components import Component


class Stopped(Exception):  # noqa: N818 - the user asked for it, nothing is wrong
    """The user asked the process to stop."""


class TrainingHost(LocalHost):
    """Keeps every component on the device until another one needs its room; stops when asked.

    Example: ``host = TrainingHost("cpu")``, then ``train_policy(config, host)``.

    Training needs the same models again at every step, so moving them off after each use, as
    :class:`LocalHost` does, would cost more than the step.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        super().__init__(device)
        self._placed: list[Component] = []
        self._is_stopped = False

    @contextmanager
    def resident(self, *components: Component, activation_bytes: int) -> Iterator[None]:
        """Have the components on the device; those used longest ago make room."""
        # One that was forgotten takes no room, and asking for its module would read it again.
        self._placed = [component for component in self._placed if component.is_loaded]
        idle = [component for component in self._placed if component not in components]
        while idle and self.free_bytes(*components) < activation_bytes:
            self._move(idle.pop(0), torch.device("cpu"))
        self._placed = [*idle, *components]
        for component in components:
            self._move(component, self.device)
        yield

    def free_bytes(self, *components: Component) -> int:
        """Return the free memory of the device less what the components will still take."""
        placed = [component for component in self._placed if component.is_loaded]
        return super().free_bytes(
            *(component for component in components if component not in placed)
        )

    def check_cancelled(self) -> None:
        """Raise Stopped if a signal asked for it."""
        if self._is_stopped:
            raise Stopped

    def stop(self, *_: Any) -> None:
        """Ask for a stop at the next model call; fits a signal handler."""
        self._is_stopped = True

    def _move(self, component: Component, device: torch.device) -> None:
        with torch.inference_mode(False), torch.no_grad():
            component.module.to(device)


@contextmanager
def stopped_by_signals(stop: Callable[..., None]) -> Iterator[None]:
    """Call ``stop`` for Ctrl-C and for a polite kill, so that the work so far is kept."""
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(code, stop) for code in signals]
    try:
        yield
    finally:
        for code, handler in zip(signals, handlers, strict=True):
            signal.signal(code, handler)
