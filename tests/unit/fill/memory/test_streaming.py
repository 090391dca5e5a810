"""Models that run in pieces: the same numbers, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.local_host import LocalHost
from onereward.fill.memory.components import NUM_SLOTS, Component
from onereward.fill.memory.streaming import (
    choose_streamed,
    find_blocks,
    least_bytes,
    num_bytes,
    stream_blocks,
)
from onereward.fill.models import FillModels, load_fill_models
from onereward.fill.pipeline import run_fill
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from onereward.fill.transformer.modulation import HostLinear
from support.bundled_models import BUNDLED
from support.recording_host import RecordingHost

CPU = torch.device("cpu")


class Blocks(nn.Module):
    """Layers outside of blocks, and blocks with lists of their own inside."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"list": nn.ModuleList([nn.Linear(8, 8), nn.LayerNorm(8)])})
            for _ in range(num)
        )
        for block in self.blocks:
            block.forward = lambda x, b=block: b["list"][1](b["list"][0](x)).relu()  # type: ignore[index]
        self.shift: torch.Tensor
        self.register_buffer("shift", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return x + self.shift


def make(num: int) -> Blocks:
    model = Blocks(num)
    generator = torch.Generator().manual_seed(num)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model.requires_grad_(False)


@pytest.mark.parametrize("num", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_a_streamed_model_computes_the_same(num: int, share: float):
    model = make(num)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        truth = model(x)
        for _ in range(2):
            with stream_blocks(model, CPU, int(share * num_bytes(model))):
                assert all(torch.equal(model(x), truth) for _ in range(3))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(p.is_inference() for p in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_blocks_pass_through_the_slots_and_only_there():
    model, addresses = make(5), set()
    before = [p.data for p in model.parameters()]  # held: nothing else gets their memory
    for block in model.blocks:
        block.register_forward_hook(lambda m, *_: addresses.add(next(m.parameters()).data_ptr()))
    with stream_blocks(model, CPU, least_bytes(model)):
        model(torch.zeros(1, 8))
    assert len(addresses) == NUM_SLOTS
    assert not addresses & {tensor.data_ptr() for tensor in before}


def test_an_error_in_a_block_leaves_the_model_whole():
    model = make(3)
    x = torch.ones(1, 8)
    truth = model(x)
    with pytest.raises(RuntimeError, match="shapes"), stream_blocks(model, CPU, 0):
        model.blocks[1](torch.ones(1, 7))
    assert torch.equal(model(x), truth)


class Moved(nn.Module):
    """Notes where it is moved to; a GPU has no room for it, if so wanted."""

    def __init__(self, fits: bool = True) -> None:
        super().__init__()
        self.devices: list[str] = []
        self.fits = fits

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.devices.append(torch.device(device).type)
        if not self.fits and self.devices[-1] != "cpu":
            raise torch.OutOfMemoryError("no room")
        return self


def test_what_was_moved_comes_back_where_the_rest_does_not_fit():
    first, second = Moved(), Moved(fits=False)
    components = [Component(str(m), lambda m=m: m, 0, torch.float32) for m in (first, second)]
    host = LocalHost("cuda")
    with pytest.raises(torch.OutOfMemoryError), host.resident(*components, activation_bytes=0):
        pytest.fail("ran")
    assert first.devices == second.devices == ["cuda", "cpu"]


def test_what_a_failed_move_left_on_a_device_comes_back_before_streaming():
    module: Any = Moved()
    module.blocks = make(2).blocks
    with stream_blocks(module, CPU, 0):
        assert module.devices == ["cpu"]


@pytest.mark.parametrize("budget", [0, 30, 100, 299, 300])
def test_no_more_blocks_are_streamed_than_needed(budget: int):
    sizes = [10, 20, 30, 40, 50, 60, 40, 30, 20]
    streamed = choose_streamed(sizes, budget)
    assert len(set(streamed)) == len(streamed)
    assert sum(sizes) - sum(sizes[i] for i in streamed) <= budget
    ends = [*streamed[1:], len(sizes)] if streamed else []
    gaps = [b - a for a, b in zip(streamed, ends, strict=True)]
    assert not gaps or max(gaps) - min(gaps) <= 1, "evenly spread"


def test_weights_that_stay_in_host_memory_are_not_moved():
    model = make(3)
    before = least_bytes(model)
    layer: Any = model.first
    layer.__class__ = HostLinear
    assert least_bytes(model) == before - layer.weight.nbytes - layer.bias.nbytes


def load(**changes: Any) -> FillModels:
    config = ModelConfig(folder=str(BUNDLED), precision="bf16", **changes)
    return load_fill_models(config, CPU)


def image(models: FillModels, host: RecordingHost) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    request = FillRequest(
        task=Task.FILL,
        image=torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)),
        mask=mask,
        prompt="a red circle",
        config=FillConfig(steps=2, true_cfg=2.0),
    )
    return run_fill(request, models, host).image


def test_offload_makes_the_same_image_and_says_so():
    host = RecordingHost()
    truth = image(load(), RecordingHost())
    assert torch.equal(image(load(offload="on"), host), truth)
    assert any("of the transformer on the device" in line for line in host.lines)
    assert host.streamed_names == ["text_encoder", "text_encoder_2", "transformer"]


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "text_encoder_2"])
def test_headers_tell_what_the_loaded_model_needs(component: str):
    module: Any = getattr(load(), component)
    # The device's alignment and what no file holds are beside the weights.
    assert module.least_bytes <= least_bytes(module.module) <= 1.1 * module.least_bytes
    assert len(find_blocks(module.module)) > 1
