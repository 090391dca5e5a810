"""ComfyUI's memory management, progress and messages, as the engine uses them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from onereward.fill.memory.components import Component
from onereward.fill.transformer.modulation import HostLinear


def make_part(name: str = "transformer") -> Component:
    return Component(
        name, lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 160, torch.float32
    )


@pytest.fixture
def mm(nodes: ModuleType) -> Iterator[Any]:
    import comfy.model_management

    yield comfy.model_management
    comfy.model_management.unload_all_models()


def test_a_part_is_loaded_at_its_first_use_and_then_managed(nodes: ModuleType, mm: Any):
    part, host = make_part(), nodes.comfy_host.ComfyHost()
    assert not part.is_loaded
    with torch.inference_mode(), host.resident(part, activation_bytes=1):
        assert part.is_loaded
        assert [m.model for m in mm.current_loaded_models] == [part.handle]
        assert part.module(torch.zeros(1, 4)).shape == (1, 4)
    before = part.handle
    mm.unload_all_models()
    assert mm.current_loaded_models == []
    with host.resident(part, activation_bytes=1):
        assert part.handle is before
        assert len(mm.current_loaded_models) == 1


def test_the_entry_goes_with_its_part(nodes: ModuleType, mm: Any):
    part = make_part()
    with nodes.comfy_host.ComfyHost().resident(part, activation_bytes=1):
        pass
    del part
    gc.collect()
    assert mm.current_loaded_models == []


def test_moves_in_inference_mode_leave_weights_trainable(nodes: ModuleType):
    module = nn.Linear(4, 4)
    patcher = nodes.comfy_host.ManagedModule(
        nodes.comfy_host.Holder(module), torch.device("meta"), torch.device("cpu")
    )
    with torch.inference_mode():
        # A budget of one byte, as ComfyUI gives where memory is short: still all of it moves.
        patcher.load(torch.device("meta"), lowvram_model_memory=1)
    assert module.weight.device.type == "meta"
    assert not module.weight.is_inference()
    assert patcher.partially_unload(torch.device("cpu"), 1) == 0


def test_weights_that_stay_in_host_memory_are_not_counted(nodes: ModuleType):
    module = nn.Sequential(nn.Linear(4, 4), HostLinear(8, 8))
    patcher = nodes.comfy_host.ManagedModule(
        nodes.comfy_host.Holder(module), torch.device("meta"), torch.device("cpu")
    )
    assert patcher.loaded_size() == 0
    for _ in range(2):
        assert patcher.model_size() == 4 * (4 * 4 + 4)
        patcher.load(torch.device("meta"))
        assert [p.device.type for p in module.parameters()] == ["meta"] * 2 + ["cpu"] * 2
        assert patcher.loaded_size() == 4 * (4 * 4 + 4)
    module[1].__class__ = nn.Linear  # type: ignore[assignment]  (given back)
    assert patcher.loaded_size() == patcher.model_size() == 4 * (4 * 4 + 4 + 8 * 8 + 8)


def test_too_little_memory_is_refused_before_anything_is_read(
    nodes: ModuleType, mm: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mm, "get_free_memory", lambda _device: 1000)
    part, host = make_part(), nodes.comfy_host.ComfyHost()
    assert host.free_bytes(part) == 1000 - part.num_bytes
    with (
        pytest.raises(MemoryError, match="transformer needs"),
        host.resident(part, activation_bytes=1000),
    ):
        pass
    assert not part.is_loaded


def test_progress_shows_a_preview_and_raises_on_cancel(
    nodes: ModuleType, mm: Any, monkeypatch: pytest.MonkeyPatch
):
    import comfy.utils

    updates: list[Any] = []

    def hook(value: int, total: int, preview: Any, node_id: str | None = None) -> None:
        mm.throw_exception_if_processing_interrupted()
        updates.append((value, total, preview, node_id))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(nodes.comfy_host, "_is_watched", lambda: True)
    monkeypatch.setattr(nodes.comfy_host, "PREVIEW_INTERVAL_S", 0.0)
    host = nodes.comfy_host.ComfyHost("7")
    host.progress(1, 2, lambda: torch.full((2, 3, 3), 2.0))
    value, total, (kind, image, _), node_id = updates[0]
    assert (value, total, kind, node_id) == (1, 2, "JPEG", "7")
    assert image.size == (3, 2)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    mm.interrupt_current_processing()
    with pytest.raises(mm.InterruptProcessingException):
        host.progress(2, 2)
    mm.interrupt_current_processing()
    with pytest.raises(mm.InterruptProcessingException):
        host.check_cancelled()


def test_slow_previews_come_less_often_and_at_the_end(
    nodes: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 1.0, 2.0, 3.0, 21.9, 22.1, 23.1, 24.0, 25.0])
    monkeypatch.setattr(nodes.comfy_host.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(nodes.comfy_host, "_is_watched", lambda: True)
    host = nodes.comfy_host.ComfyHost()
    calls: list[int] = []

    def preview() -> torch.Tensor:  # takes 1 s: at most one in 20 s
        calls.append(step)
        return torch.zeros(1, 1, 3)

    for step in range(5):
        host.progress(step, 4, preview)
    assert calls == [0, 3, 4]


def test_the_last_of_a_kind_is_held_until_memory_is_freed(
    nodes: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    class Thing:
        pass

    host, flags = nodes.comfy_host, {}
    queue = SimpleNamespace(set_flag=flags.__setitem__)
    server = SimpleNamespace(prompt_queue=queue)
    monkeypatch.setattr(host.PromptServer, "instance", server, raising=False)
    monkeypatch.setattr(host, "_HELD", {})
    host.release_on_free()
    first, last = Thing(), Thing()
    references = [weakref.ref(first), weakref.ref(last)]
    host.hold("model", first)
    host.hold("model", last)
    copy = Thing()
    references.append(weakref.ref(copy))
    host.hold("model", last, copy)
    assert host.held("model") == (last, copy)
    host.drop_copy("model")
    del first, last, copy
    gc.collect()
    assert [ref() is None for ref in references] == [True, False, True]
    queue.set_flag("unload_models", True)
    assert host.held("model") == (references[1](), None)
    queue.set_flag("free_memory", True)
    gc.collect()
    assert references[1]() is None
    assert host.held("model") == (None, None)
    assert flags == {"unload_models": True, "free_memory": True}


def test_locked_memory_is_counted_in_comfyuis_budget(
    nodes: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    import comfy.model_management as mm

    sizes: list[int] = []
    monkeypatch.setattr(mm, "TOTAL_PINNED_MEMORY", 5, raising=False)
    monkeypatch.setattr(mm, "ensure_pin_registerable", sizes.append, raising=False)
    with nodes.comfy_host._locked(100):
        assert mm.TOTAL_PINNED_MEMORY == 105
    assert mm.TOTAL_PINNED_MEMORY == 5
    assert sizes == [100]
    with nodes.comfy_host._locked(0):
        assert mm.TOTAL_PINNED_MEMORY == 5
    monkeypatch.delattr(mm, "TOTAL_PINNED_MEMORY")
    with nodes.comfy_host._locked(100):
        assert not hasattr(mm, "TOTAL_PINNED_MEMORY")


def test_text_encoders_leave_as_soon_as_they_are_done(nodes: ModuleType, mm: Any):
    encoder, transformer, host = (
        make_part("text_encoder_2"),
        make_part(),
        nodes.comfy_host.ComfyHost(),
    )
    with host.resident(encoder, activation_bytes=1):
        assert [m.model for m in mm.current_loaded_models] == [encoder.handle]
    assert mm.current_loaded_models == []
    with host.resident(transformer, activation_bytes=1):
        assert [m.model for m in mm.current_loaded_models] == [transformer.handle]
    assert mm.current_loaded_models[0].model is transformer.handle


def test_a_streamed_part_is_not_managed_meanwhile(nodes: ModuleType, mm: Any):
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    part, host = (
        Component("transformer", Blocks, 240, torch.float32, 160),
        nodes.comfy_host.ComfyHost(),
    )
    x = torch.ones(1, 4)
    with torch.inference_mode():
        with host.resident(part, activation_bytes=1):
            truth = part.module(x)
        with host.streamed(part, weight_bytes=160, activation_bytes=1):
            assert mm.current_loaded_models == []
            assert torch.equal(part.module(x), truth)
        with host.resident(part, activation_bytes=1):
            assert torch.equal(part.module(x), truth)
    assert not any(p.is_inference() for p in part.module.parameters())
