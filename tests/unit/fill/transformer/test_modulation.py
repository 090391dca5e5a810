"""The modulation table against diffusers' own norms, and where its weights stay."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onereward import kernels
from onereward.fill.memory.components import Component
from onereward.fill.sampling.guidance import Conditioning, Prompt, make_velocity
from onereward.fill.transformer import fused
from onereward.fill.transformer.modulation import (
    HostLinear,
    make_table,
    modulated_norms,
    num_bytes,
    place_modulation,
)
from support.bundled_models import bundled_models
from support.recording_host import RecordingHost
from support.tolerance import assert_equal_models

SIGMAS = torch.tensor([1.0, 0.7, 0.3])


@pytest.fixture(scope="module")
def bundled() -> nn.Module:
    model: Any = copy.deepcopy(bundled_models().transformer.module)
    model.transformer_blocks = model.transformer_blocks[:1]
    model.single_transformer_blocks = model.single_transformer_blocks[:2]
    return model


@pytest.fixture
def transformer(bundled: nn.Module) -> Iterator[Any]:
    with kernels.use_backend("reference"):
        yield bundled
    fused.detach(bundled)
    bundled.requires_grad_(False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditioning(config: Any, rows: int, has_own_prompts: bool, is_guided: bool) -> Conditioning:
    lead = (rows,) if has_own_prompts else ()
    prompts = [
        Prompt(
            sequence=draw(*batch, 2, config.joint_attention_dim, seed=seed),
            pooled_embeds=draw(*batch, config.pooled_projection_dim, seed=seed + 9),
        )
        for seed, batch in enumerate((lead, ()))
    ]
    return Conditioning(
        packed=draw(rows, 4, config.in_channels - config.out_channels),
        image_ids=torch.tensor([[0.0, i // 2, i % 2] for i in range(4)]),
        positive=prompts[0],
        negative=prompts[1] if is_guided else None,
        true_cfg=3.0,
        guidance=2.5 if config.guidance_embeds else None,
    )


@pytest.mark.parametrize("is_batched", [True, False], ids=["batched", "sequential"])
@pytest.mark.parametrize("has_own_prompts", [True, False], ids=["own", "shared"])
@pytest.mark.parametrize(("rows", "is_guided"), [(1, True), (3, True), (3, False)])
def test_velocity_is_that_of_diffusers(
    transformer: Any, rows: int, is_guided: bool, has_own_prompts: bool, is_batched: bool
) -> None:
    config = transformer.config
    cond = conditioning(config, rows, has_own_prompts, is_guided)
    x = draw(rows, 4, config.out_channels, seed=5)
    with torch.no_grad():
        plain = make_velocity(transformer, cond, is_batched)
        expected = [plain(x, sigma) for sigma in SIGMAS]
        fused.attach(transformer)
        table = make_table(transformer, cond, SIGMAS)
        assert table is not None
        layers = [norm.linear for _, norm in modulated_norms(transformer)]
        for module in (transformer.time_text_embed, *layers):
            module.register_forward_hook(_fail)
        ready = make_velocity(transformer, cond, is_batched, table=table)
        try:
            for sigma, velocity in zip(SIGMAS, expected, strict=True):
                assert_equal_models(ready(x, sigma), velocity)
        finally:
            for module in transformer.modules():
                module._forward_hooks.clear()


def _fail(*_: Any) -> None:
    raise AssertionError("the weights of the modulation are not to be read at a step")


def test_gradients_pass_frozen_vectors(transformer: Any) -> None:
    config = transformer.config
    cond = conditioning(config, 1, False, True)
    x = draw(1, 4, config.out_channels, seed=5).requires_grad_()
    velocity = make_velocity(transformer, cond)(x, SIGMAS[1])
    (expected,) = torch.autograd.grad(velocity.sum(), x)
    fused.attach(transformer)
    table = make_table(transformer, cond, SIGMAS)
    velocity = make_velocity(transformer, cond, table=table)(x, SIGMAS[1])
    assert_equal_models(torch.autograd.grad(velocity.sum(), x)[0], expected)


def test_no_table_where_it_would_be_wrong(transformer: Any) -> None:
    cond = conditioning(transformer.config, 1, False, False)
    assert make_table(transformer, cond, SIGMAS) is None, "diffusers' forward takes none"
    fused.attach(transformer)
    assert make_table(transformer, cond, SIGMAS) is not None
    transformer.norm_out.linear.bias.requires_grad_(True)
    assert make_table(transformer, cond, SIGMAS) is None, "what learns changes between the steps"
    transformer.requires_grad_(False)
    layer = transformer.norm_out.linear
    transformer.norm_out.linear = copy.deepcopy(layer).to("meta")
    assert make_table(transformer, cond, SIGMAS) is None, "it comes later, with its block"
    transformer.norm_out.linear = layer


class ShortHost(RecordingHost):
    """Says that it computes on a GPU, with this much memory for everything."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")

    def free_bytes(self, *components: Component) -> int:
        return self.total - sum(component.num_bytes for component in components)


def test_weights_leave_a_short_device_and_come_back(transformer: Any) -> None:
    fused.attach(transformer)
    layers = [norm.linear for _, norm in modulated_norms(transformer)]
    whole, on_host = num_bytes(transformer), sum(num_bytes(layer) for layer in layers)
    assert on_host > 0.1 * whole
    component = Component("transformer", lambda: transformer, whole, torch.float32)
    cond = conditioning(transformer.config, 1, False, True)
    x = draw(1, 4, transformer.config.out_channels, seed=5)
    state = {name: p.data_ptr() for name, p in transformer.named_parameters()}

    def velocity() -> Tensor:
        table = make_table(transformer, cond, SIGMAS)
        with torch.no_grad():
            return make_velocity(transformer, cond, table=table)(x, SIGMAS[0])

    before = velocity()
    for _ in range(2):
        place_modulation(component, ShortHost(whole + 50), activation_bytes=100)
        assert all(type(layer) is HostLinear for layer in layers)
        assert component.num_bytes == whole - on_host
    assert torch.equal(velocity(), before)
    transformer.norm_out.linear.to("meta")
    assert transformer.norm_out.linear.weight.device.type == "cpu", "it stays"
    for _ in range(2):
        place_modulation(component, ShortHost(whole + 100), activation_bytes=100)
        assert all(type(layer) is nn.Linear for layer in layers)
        assert component.num_bytes == whole
    assert torch.equal(velocity(), before)
    assert {name: p.data_ptr() for name, p in transformer.named_parameters()} == state


def test_weights_stay_where_they_are_read_at_every_call(transformer: Any) -> None:
    component = Component("transformer", lambda: transformer, num_bytes(transformer), torch.float32)
    short = ShortHost(0)
    place_modulation(component, short, activation_bytes=100)
    assert type(transformer.norm_out.linear) is nn.Linear, "diffusers reads them at every call"
    fused.attach(transformer)
    place_modulation(component, RecordingHost(free=0), activation_bytes=100)
    assert type(transformer.norm_out.linear) is nn.Linear, "a CPU has one memory only"
    transformer.requires_grad_(True)
    place_modulation(component, short, activation_bytes=100)
    assert type(transformer.norm_out.linear) is nn.Linear, "they learn"
