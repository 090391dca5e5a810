"""What the engine asks of the program it runs in: memory, progress, cancel, one line of text."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from .memory.components import Component

Preview = Callable[[], "torch.Tensor"]
"""Makes a small image ``[H, W, 3]``, float32, 0..1, of the state so far; called only if shown."""


class Host(Protocol):
    """The surroundings of a run. Weights move only through :meth:`resident`.

    Example: ``with host.resident(models.vae, activation_bytes=1 << 30): ...``.
    """

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        ...

    def resident(
        self, *components: Component, activation_bytes: int
    ) -> AbstractContextManager[None]:
        """Have the components on the device inside the context, with room for the activations.

        Args:
            components: Models needed at the same time; each is loaded from disk at its first use.
            activation_bytes: Memory the computation needs beside the weights, in bytes.
        """
        ...

    def streamed(
        self, component: Component, *, weight_bytes: int, activation_bytes: int
    ) -> AbstractContextManager[None]:
        """Let a component compute on the device while most of it is in host memory.

        Args:
            component: A model with blocks; no gradient flows through it.
            weight_bytes: What its weights may take on the device.
            activation_bytes: Memory the computation needs beside them, in bytes.
        """
        ...

    def free_bytes(self, *components: Component) -> int:
        """Return the memory left for activations with exactly these components on the device."""
        ...

    def progress(self, step: int, total: int, preview: Preview | None = None) -> None:
        """Report the model calls made so far; also polls for cancel."""
        ...

    def check_cancelled(self) -> None:
        """Raise the host's own exception if the user cancelled."""
        ...

    def notify(self, text: str) -> None:
        """Show one line to the user."""
        ...
