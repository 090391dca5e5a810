"""Distributed that wait for each other, up to the call that starts their group."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from onereward.training.runs.distributed import Distributed


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_long_evaluation_of_the_first_process_ends_no_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NCCL gives up after ten minutes by default."""
    arguments: dict[str, Any] = {}

    def start(**values: Any) -> None:
        arguments.update(values)
        raise KeyboardInterrupt

    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    limits = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    for name, value in (ranks | address | limits).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", start)
    with pytest.raises(KeyboardInterrupt):
        _ = Distributed().device
    assert arguments["timeout"] >= timedelta(hours=2)
