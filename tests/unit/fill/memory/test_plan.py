"""Plans: what sits where, for memory of every size, on the published model's own sizes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onereward.fill.io.files import TensorInfo
from onereward.fill.memory import plan as plan_module
from onereward.fill.memory.components import Component, least_bytes
from onereward.fill.memory.plan import (
    Plan,
    make_plan,
    sample_bytes,
    summary,
    weight_budget,
)
from onereward.fill.recipe import ONEREWARD
from onereward.fill.wrapped_host import WrappedHost
from support.published import TRANSFORMER, VAE

GIB = 2**30
DOUBLE, SINGLE = 19, 38
TOKENS = (1024 // 16) ** 2


def published_sizes() -> dict[str, int]:
    """Return the weights of FLUX.1-Fill-dev in bf16, from its own classes."""
    from accelerate import init_empty_weights
    from diffusers import FluxTransformer2DModel

    config: dict[str, Any] = TRANSFORMER | {"num_layers": DOUBLE, "num_single_layers": SINGLE}
    with init_empty_weights():
        model = FluxTransformer2DModel(**config)
    return {name: 2 * p.numel() for name, p in model.named_parameters()}


SIZES = published_sizes()


CLIP_GIB, T5_GIB = 0.25, 8.9
"""Of the published text encoders in bf16."""


def other_component(name: str, gib: float) -> Component:
    least = int(gib / 8 * GIB) if name.startswith("text_encoder") else None
    return Component(name, lambda: torch.nn.Identity(), int(gib * GIB), torch.bfloat16, least)


@dataclass
class Source:
    is_quantised: bool = False

    def num_bytes(self, dtype: torch.dtype) -> int:
        return sum(SIZES.values()) // (4 if self.is_quantised else 1)


@dataclass
class Models:
    """What a plan needs of a fill model, with the published sizes."""

    offload: str = "auto"
    memory_limit: float = 0.0
    kernels: str = "auto"
    transformer_source: Source = field(default_factory=Source)
    adapters: tuple[Any, ...] = ()
    recipe: Any = ONEREWARD
    dtype: torch.dtype = torch.bfloat16
    multiple: int = 16
    transformer_config: dict[str, Any] = field(default_factory=lambda: TRANSFORMER)
    vae_config: dict[str, Any] = field(default_factory=lambda: VAE)

    def __post_init__(self) -> None:
        size = self.transformer_source.num_bytes(self.dtype)
        least = least_bytes(SIZES)
        assert least is not None
        share = size / sum(SIZES.values())
        self.transformer = Component(
            "transformer", lambda: torch.nn.Identity(), size, self.dtype, math.ceil(least * share)
        )
        self.text_encoder = other_component("text_encoder", CLIP_GIB)
        self.text_encoder_2 = other_component("text_encoder_2", T5_GIB)
        self.vae = other_component("vae", 0.2)
        self.transformer_tensors = {
            name: TensorInfo("BF16", (size // 2,)) for name, size in SIZES.items()
        }


class Card:
    """A GPU with so much free memory."""

    def __init__(self, gib: float) -> None:
        self.device = torch.device("cuda", 0)
        self._free = int(gib * GIB)

    def free_bytes(self, *components: Component) -> int:
        return self._free - sum(component.num_bytes for component in components)


@pytest.fixture(autouse=True)
def kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "device_refusal", lambda *_: None)


def plan_for(models: Any, gib: float, rows: int = 1, cfg_mode: str = "auto") -> Plan:
    host: Any = Card(gib)
    return make_plan(models, host, TOKENS, rows, uses_cfg=True, cfg_mode=cfg_mode)


def test_the_published_model_has_the_size_it_has():
    assert 22 * GIB < sum(SIZES.values()) < 22.3 * GIB


@pytest.mark.parametrize(
    ("gib", "is_streamed"), [(79, False), (31, False), (23, False), (15.5, True), (11.5, True)]
)
def test_what_fits_stays_and_what_does_not_passes_through(gib: float, is_streamed: bool):
    models = Models()
    plan = plan_for(models, gib)
    assert (plan.weight_bytes is not None) == is_streamed
    rows = 2 if plan.batched_cfg else 1
    used = sample_bytes(models, rows, TOKENS) + (plan.weight_bytes or 0)  # type: ignore[arg-type]
    assert used <= gib * GIB
    if is_streamed:
        assert plan.batched_cfg, "one call for both prompts fetches the blocks once"


def test_24_gb_hold_the_model_only_without_its_modulation():
    assert plan_for(Models(), 22.5).weight_bytes is None
    assert plan_for(Models(kernels="off"), 22.5).weight_bytes is not None


def test_what_is_in_host_memory_already_is_counted_once():
    models = Models()
    host: Any = Card(17.5)
    modulation = plan_module._modulation_bytes(models, host)  # type: ignore[arg-type]
    assert 4 * GIB < modulation < 7 * GIB
    before = plan_for(models, 17.5)
    models.transformer.num_bytes -= modulation  # as place_modulation leaves it
    assert plan_module._modulation_bytes(models, host) == 0  # type: ignore[arg-type]
    assert plan_for(models, 17.5) == before


def test_adapted_modulation_stays():
    class Adapter:
        weights = dict.fromkeys(
            f"transformer.{name.removesuffix('.weight')}.lora_A.weight" for name in SIZES
        )

    assert plan_module._modulation_bytes(Models(adapters=(Adapter(),)), Card(24)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("gib", [6, 8, 12, 16, 20])
def test_the_budget_is_what_the_calls_leave(gib: int):
    models, host = Models(kernels="off"), Card(gib)
    room = GIB
    budget: Any = weight_budget(models.transformer, models, host, room)  # type: ignore[arg-type]
    assert budget == gib * GIB - room


def test_settings_overrule_the_free_memory():
    assert plan_for(Models(offload="on"), 79).weight_bytes == least_bytes(SIZES)
    assert plan_for(Models(offload="off"), 8).weight_bytes is None
    models: Any = Models(memory_limit=12.0)
    host: Any = Card(79)
    plan = make_plan(models, plan_module.limited(models, host), TOKENS, 1, True, "auto")
    assert plan == plan_for(models, 12)


def test_a_limit_is_no_more_than_there_is():
    host: Any = Card(10)
    assert WrappedHost(host, max_bytes=12 * GIB).free_bytes() == 10 * GIB
    assert WrappedHost(host, max_bytes=4 * GIB).free_bytes() == 4 * GIB
    assert WrappedHost(host, max_bytes=4 * GIB).device == host.device


def test_after_the_last_resident_plan_comes_a_streamed_one():
    plan = plan_for(Models(), 79, rows=4)
    first = plan.leaner()
    assert first is not None
    assert (first.rows, first.batched_cfg, first.weight_bytes) == (1, False, None)
    second = first.leaner()
    assert second is not None
    assert second.weight_bytes == least_bytes(SIZES)
    assert "of the transformer on the device" in second.describe()
    assert second.leaner() is None
    assert plan_for(Models(offload="off"), 79).leaner().leaner() is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("gib", "phrase"),
    [(79, "stays on the device"), (12, "passes through the device"), (2, "does not fit")],
)
def test_the_summary_says_what_sits_where(gib: int, phrase: str):
    models: Any = Models()
    host: Any = Card(gib)
    text = summary(models, host)
    assert phrase in text
    assert "1024 pixels: the transformer (22.2 GB)" in text
    assert ("choose an fp8 or GGUF file" in text) == (gib == 2)


def peak_of(text: str) -> float:
    """Return the peak that a summary forecasts, in GiB."""
    match = re.search(r"([\d.]+) GB of [\d.]+ GB free memory at the peak", text)
    assert match is not None
    return float(match[1])


def test_the_peak_is_that_of_the_largest_stage():
    """A transformer of 5.5 GB comes after 8.9 GB of T5, which streams if those do not fit."""
    models: Any = Models(transformer_source=Source(is_quantised=True))
    wide: Any = Card(24)
    text = summary(models, wide)
    assert "(5.5 GB) stays on the device; the text encoders (9.1 GB) come before it" in text
    assert T5_GIB < peak_of(text) < T5_GIB + 0.2
    narrow: Any = Card(8)
    assert peak_of(summary(models, narrow)) <= 8


def test_on_a_cpu_everything_stays():
    models: Any = Models(transformer_source=Source(is_quantised=True))
    host: Any = Card(64)
    host.device = torch.device("cpu")
    weights = (models.transformer.num_bytes + models.vae.num_bytes) / GIB + CLIP_GIB + T5_GIB
    assert weights < peak_of(summary(models, host)) < weights + 4


def test_expanded_layers_and_adapters_need_room():
    plain, models = Models(), Models()
    models.transformer.expansion_bytes = GIB

    weights = {"transformer.x_embedder.lora_A.weight": torch.empty(GIB // 4, device="meta")}
    models.adapters = (SimpleNamespace(weights=weights),)
    host: Any = Card(12)
    assert plan_module.beside_bytes(models) == 1.5 * GIB  # type: ignore[arg-type]
    plan, lean = plan_for(plain, 12), plan_for(models, 12)
    assert plan.weight_bytes is not None
    assert lean.weight_bytes is not None
    assert plan.weight_bytes - lean.weight_bytes == 1.5 * GIB
    assert peak_of(summary(models, host)) == pytest.approx(  # type: ignore[arg-type]
        peak_of(summary(plain, host)),  # type: ignore[arg-type]
        abs=0.1,
    ), "both use what there is"


def test_a_model_larger_than_the_computer_is_refused_unread():
    component = Component("transformer", lambda: pytest.fail("read"), 1 << 60, torch.bfloat16)
    with pytest.raises(MemoryError, match=r"transformer takes .* GB of the computer's memory"):
        _ = component.module
