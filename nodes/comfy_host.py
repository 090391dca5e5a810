"""The running ComfyUI server as the engine's host: memory, progress, cancel, text on the node."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from PIL import Image
from server import PromptServer

from ..fill.host import Preview
from ..fill.memory.components import Component
from ..fill.memory.streaming import stream_blocks
from ..fill.transformer.modulation import HostLinear, num_bytes
from .node import current_notes

log = logging.getLogger("onereward.nodes")

MESSAGE_INTERVAL_S = 0.1
"""Shortest time between two moves of the progress bar, the first and the last excepted."""
PREVIEW_INTERVAL_S = 0.5
PREVIEW_SHARE = 0.05
"""Previews may cost this share of a run; on a slow machine they simply come less often."""
PREVIEW_SIDE, MAX_PREVIEW_SIDE = 512, 1024
"""Longest side of the preview that is sent, in pixels: a small one is enlarged to the first."""


class Holder(torch.nn.Module):
    """Hides the read-only ``device`` of library models, an attribute that ModelPatcher sets.

    Example: ``ManagedModule(Holder(vae), load_device, offload_device)``.
    """

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner


class ManagedModule(ModelPatcher):
    """A model with ordinary torch layers under ComfyUI's memory management, moved as a whole.

    ComfyUI moves single layers where memory is short, but only layers built from its own operations
    work when their weights are elsewhere. Moves happen outside inference mode, because parameters
    moved inside it could never be trained.
    """

    def load(self, device_to: torch.device | None = None, *args: Any, **kwargs: Any) -> None:
        """Move everything to the device."""
        del args  # the budget and patches of partial loading
        kwargs["full_load"] = True
        with torch.inference_mode(False), torch.no_grad():
            super().load(device_to, **kwargs)

    def unpatch_model(self, *args: Any, **kwargs: Any) -> None:
        """Move everything back."""
        with torch.inference_mode(False), torch.no_grad():
            super().unpatch_model(*args, **kwargs)

    def model_size(self) -> int:
        """Return what is moved to the device, in bytes: some layers may stay in host memory."""
        host_bytes = sum(num_bytes(m) for m in self.model.modules() if isinstance(m, HostLinear))
        return super().model_size() - host_bytes

    def loaded_size(self) -> int:
        """Return what is on the device, in bytes; which layers stay may change meanwhile."""
        return self.model_size() if super().loaded_size() > 0 else 0

    def partially_unload(self, *args: Any, **kwargs: Any) -> int:
        """Free nothing, whereupon ComfyUI unloads the whole model."""
        del args, kwargs
        return 0


class ComfyHost:
    """One run of the engine inside one node.

    Example: ``run_fill(request, models, ComfyHost(cls.hidden.unique_id))``.

    Args:
        node_id: Id of the node that shows progress and notes; None: none is shown.
    """

    def __init__(self, node_id: str | None = None) -> None:
        self._node_id = node_id
        self._bar: ProgressBar | None = None
        self._notes = current_notes(node_id)
        self._last_message = -math.inf
        self._last_preview = time.monotonic()
        self._preview_pause_s = PREVIEW_INTERVAL_S

    @property
    def device(self) -> torch.device:
        """The device ComfyUI computes on."""
        return mm.get_torch_device()

    @contextmanager
    def resident(self, *components: Component, activation_bytes: int) -> Iterator[None]:
        """Have the components on the device; ComfyUI unloads other models as needed.

        Raises:
            MemoryError: The computer's own memory would not do; without this check the system would
                end the server. A GPU refuses by itself, with torch's out-of-memory error.
        """
        missing = activation_bytes - self.free_bytes(*components)
        if missing > 0 and self.device.type == "cpu":
            names = " and ".join(component.name for component in components)
            raise MemoryError(f"{names} needs {missing / 2**30:.1f} GB more than there is")
        patchers = [managed(component) for component in components]
        # ComfyUI's own models work with some of their layers elsewhere, ours do not.
        whole = any(isinstance(patcher, ManagedModule) for patcher in patchers)
        mm.load_models_gpu(patchers, memory_required=activation_bytes, force_full_load=whole)
        yield
        for component in components:
            if component.name.startswith("text_encoder"):
                _unload(component)  # prompts are kept encoded; the transformer needs the room

    @contextmanager
    def streamed(
        self, component: Component, *, weight_bytes: int, activation_bytes: int
    ) -> Iterator[None]:
        """Let the blocks pass through the device; ComfyUI unloads other models as needed."""
        _unload(component)
        if self.device.type != "cpu":
            mm.free_memory(weight_bytes + activation_bytes, self.device)
        locked_bytes = max(component.num_bytes - weight_bytes, 0)
        with (
            _locked(locked_bytes if self.device.type == "cuda" else 0),
            stream_blocks(component.module, self.device, weight_bytes),
        ):
            yield

    def free_bytes(self, *components: Component) -> int:
        """Return the memory left for activations with exactly these components on the device."""
        free: Any = mm.get_free_memory(self.device)
        if self.device.type == "cpu":
            # Host memory is where components rest, too: a loaded one has already been taken off.
            return int(free - sum(p.num_bytes for p in components if not p.is_loaded))
        evictable = sum(
            m.model_loaded_memory()
            for m in mm.current_loaded_models
            if m.model is not None and m.device == self.device
        )
        needed = sum(p.num_bytes for p in components) + mm.extra_reserved_memory()
        return int(free + evictable - needed)

    def progress(self, step: int, total: int, preview: Preview | None = None) -> None:
        """Move the progress bar, show a preview now and then, raise if the user cancelled.

        Every message wakes the server's own thread, which on a CPU stops the threads that compute.
        So messages keep a pause; cancel does not.
        """
        self.check_cancelled()
        now = time.monotonic()
        if 0 < step < total and now - self._last_message < MESSAGE_INTERVAL_S:
            return
        self._last_message = now
        if self._bar is None:
            self._bar = ProgressBar(total, node_id=self._node_id)
        self._bar.update_absolute(step, total, self._preview(preview, now, step == total))

    def check_cancelled(self) -> None:
        """Raise ComfyUI's own exception if the user cancelled."""
        mm.throw_exception_if_processing_interrupted()

    def notify(self, text: str) -> None:
        """Show a note on the node, below those of this run so far, and log it."""
        if self._notes.add(text):
            log.info("%s", text)

    def _preview(
        self, preview: Preview | None, start: float, is_last: bool
    ) -> tuple[str, Image.Image, int] | None:
        # The last one stays on the node.
        is_due = is_last or start - self._last_preview >= self._preview_pause_s
        if preview is None or not is_due or not _is_watched():
            return None
        image = (preview().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
        self._last_preview = time.monotonic()
        cost = self._last_preview - start
        self._preview_pause_s = max(PREVIEW_INTERVAL_S, cost / PREVIEW_SHARE)
        side = min(max(PREVIEW_SIDE, *image.shape[:2]), MAX_PREVIEW_SIDE)
        return ("JPEG", Image.fromarray(image), side)


FILL_MODEL, JUDGE = "fill model", "judge"
"""Kinds of what is held."""
_HELD: dict[str, tuple[Any, Any]] = {}
"""The last used of each kind and a copy of it in another form, until memory is to be freed."""


def hold(kind: str, thing: Any, copy: Any = None) -> None:
    """Keep the last used of a kind, so that a later job need not read it again.

    ComfyUI drops cached outputs when another job runs or memory is short. Its call to free memory
    (``POST /free`` with ``free_memory``) lets go of what is held here, too.

    Example: ``hold(FILL_MODEL, models)``.
    """
    _HELD[kind] = thing, copy


def held(kind: str) -> tuple[Any, Any]:
    """Return the last used of a kind and its copy, None where there is none."""
    return _HELD.get(kind, (None, None))


def drop_copy(kind: str) -> None:
    """Let go of the copy in another form, for work that needs the room for the thing itself."""
    _HELD[kind] = held(kind)[0], None


def release_on_free() -> None:
    """Let go of what is held whenever ComfyUI is asked to free memory; called once at start."""
    server = getattr(PromptServer, "instance", None)
    queue: Any = getattr(server, "prompt_queue", None)
    if queue is None:
        return
    set_flag = queue.set_flag

    def watched(name: str, data: Any) -> None:
        if name == "free_memory" and data:
            _HELD.clear()
        set_flag(name, data)

    queue.set_flag = watched


@contextmanager
def _locked(num_bytes: int) -> Iterator[None]:
    """Count what streaming locks in the computer's memory in ComfyUI's budget, if it has one."""
    budget: Any = mm
    if not num_bytes or not hasattr(budget, "TOTAL_PINNED_MEMORY"):
        yield
        return
    if hasattr(budget, "ensure_pin_registerable"):
        budget.ensure_pin_registerable(num_bytes)  # newer ComfyUI: other models unlock theirs
    budget.TOTAL_PINNED_MEMORY += num_bytes
    try:
        yield
    finally:
        budget.TOTAL_PINNED_MEMORY -= num_bytes


def managed(part: Component) -> ManagedModule:
    """Return the part's entry in ComfyUI's memory management, reading its weights if needed.

    ComfyUI holds its entries by weak references, so the part itself has to keep them alive.
    """
    if part.handle is None:
        part.handle = ManagedModule(Holder(part.module), mm.get_torch_device(), _rest_device(part))
    return part.handle


def _unload(part: Component) -> None:
    """Take a part off the device, if ComfyUI has it there."""
    for entry in list(mm.current_loaded_models):
        if entry.model is part.handle is not None:
            entry.model_unload()
            mm.current_loaded_models.remove(entry)
    if part.is_loaded:
        with torch.inference_mode(False), torch.no_grad():
            part.module.to("cpu")


def _rest_device(part: Component) -> torch.device:
    if part.name == "vae":
        return mm.vae_offload_device()
    if part.name.startswith("text_encoder"):
        return mm.text_encoder_offload_device()
    return mm.unet_offload_device()


def _is_watched() -> bool:
    """Tell whether a client would see a preview."""
    server = getattr(PromptServer, "instance", None)
    return server is not None and server.client_id is not None
