"""Hosts of plain processes: who makes room for whom, and how much there is."""

from __future__ import annotations

import pytest
import torch

from onereward.fill.local_host import LocalHost
from onereward.fill.memory.components import Component
from onereward.training.runs.hosts import TrainingHost


class Reads:
    """Makes parts and counts how often each is read."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def component(self, name: str) -> Component:
        def load() -> torch.nn.Module:
            self.counts[name] = self.counts.get(name, 0) + 1
            return torch.nn.Linear(4, 4)

        return Component(name, load, 80, torch.float32)


def test_a_forgotten_part_is_not_read_again_to_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, host = Reads(), TrainingHost("cpu")
    text, transformer = reads.component("text"), reads.component("transformer")
    with host.resident(text, activation_bytes=1):
        pass
    text.forget()
    monkeypatch.setattr(LocalHost, "free_bytes", lambda self, *parts: 0)
    with host.resident(transformer, activation_bytes=1):
        pass
    assert reads.counts == {"text": 1, "transformer": 1}


def test_a_forgotten_part_takes_its_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    host, component = TrainingHost("cpu"), Reads().component("text")
    monkeypatch.setattr(
        LocalHost, "free_bytes", lambda self, *parts: 100 - sum(p.num_bytes for p in parts)
    )
    with host.resident(component, activation_bytes=1):
        assert host.free_bytes(component) == 100
    component.forget()
    assert host.free_bytes(component) == 20


def test_what_pytorch_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver says 10 bytes are free; of 90 reserved, 60 hold tensors."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 90)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 60)
    assert LocalHost("cuda").free_bytes() == 40
    assert LocalHost("cuda").free_bytes(Reads().component("vae")) == 40 - 80
