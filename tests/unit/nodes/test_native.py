"""The bridge to ComfyUI's own sampling: what it refuses, and its part in dynamic memory."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.models import load_fill_models
from onereward.fill.pipeline import run_fill
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from support.bundled_models import BUNDLED


class Native:
    """ComfyUI's model, made from the bundled one, and a VAE of its kind."""

    def __init__(self, nodes: ModuleType) -> None:
        config = ModelConfig(folder=str(BUNDLED), precision="fp32")
        models = load_fill_models(config, torch.device("cpu"))
        self.model: Any = nodes.native.native_model.native_model(models)
        self.recipe = models.recipe
        host = nodes.comfy_host.ComfyHost(None)
        self.vae: Any = nodes.native.native_model.native_vae(models, host)
        self.clip: Any = nodes.native.native_model.native_clip(models, host)


def prepare(nodes: ModuleType, native: Native, **changes: Any) -> None:
    values = {"model": native.model, "vae": native.vae, "task": "fill"}
    nodes.OneRewardNativeInputs.PREPARE_CLASS_CLONE({}).execute(
        clip=SimpleNamespace(clone=lambda: pytest.fail("encoded a prompt"), tokenize=print),
        image=torch.rand(1, 64, 64, 3),
        mask=torch.ones(1, 64, 64),
        prompt="a red circle",
        recipe="bundled",
        **(values | changes),
    )


def test_a_model_that_would_ignore_the_mask_is_refused(nodes: ModuleType):
    native = Native(nodes)
    config = native.model.model.model_config.unet_config
    config["in_channels"] = config["out_channels"]  # as FLUX.1-dev
    with pytest.raises(ValueError, match=r"MODEL has 32 input channels \(as FLUX\.1-dev, "):
        prepare(nodes, native)


def test_another_family_is_refused(nodes: ModuleType):
    foreign = SimpleNamespace(model=SimpleNamespace(), clone=print)
    with pytest.raises(ValueError, match=r"MODEL is a SimpleNamespace, but FLUX\.1 Fill"):
        prepare(nodes, Native(nodes), model=foreign)


def test_a_vae_of_another_model_is_refused(nodes: ModuleType):
    native = Native(nodes)
    native.vae.latent_channels = 4
    with pytest.raises(ValueError, match="VAE has 4 latent channels, but this MODEL works with 8"):
        prepare(nodes, native)


def test_an_unknown_task_is_refused(nodes: ModuleType):
    with pytest.raises(ValueError, match="task is 'paint'; choose one of: fill, extend, remove"):
        prepare(nodes, Native(nodes), task="paint")


def test_what_only_comfyuis_own_sampler_heeds_is_named(nodes: Any):
    import comfy.patcher_extension
    from comfy.model_patcher import ModelPatcher
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
    from comfy_extras.nodes_model_advanced import RescaleCFG

    sampler_patches = nodes.native.from_native.sampler_patches
    module: Any = torch.nn.Linear(2, 2)
    module.model_sampling = SimpleNamespace()  # newer ComfyUI looks at it
    model = ModelPatcher(module, torch.device("cpu"), torch.device("cpu"))
    model.set_model_attn1_patch(lambda q, k, v, extra: (q, k, v))
    assert sampler_patches(model) == [], "patches of attention do take effect"
    (masked,) = DifferentialDiffusion.execute(model).args
    assert sampler_patches(masked) == [], "no sampler makes it work on a binary mask"
    (rescaled,) = RescaleCFG().patch(masked, 0.7)
    assert sampler_patches(rescaled) == ["a CFG function"]
    rescaled.add_object_patch("model_sampling", object())
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    rescaled.add_wrapper_with_key(kind, "easycache", lambda *_: None)
    assert sampler_patches(rescaled)[-2:] == [
        "another noise schedule (such as ModelSamplingFlux)",
        "a wrapper (easycache)",
    ]


def unchanged_call(apply_model: Any, values: dict[str, Any]) -> torch.Tensor:
    return apply_model(values["input"], values["timestep"], **values["c"])


@pytest.mark.parametrize(
    "config",
    [
        {"true_cfg": 1.0},
        {"true_cfg": 3.0, "num_candidates": 2},
        {"denoise": 0.5},
        {"preserve_unmasked": True},
        {"shift": 3.0},
    ],
    ids=lambda config: "-".join(config),
)
def test_comfyuis_own_sampler_makes_what_ours_makes(nodes: Any, config: dict[str, Any]):
    """A wrapper that changes nothing is enough for ComfyUI's to sample."""
    native = Native(nodes)
    wrapped = native.model.clone()
    wrapped.set_model_unet_function_wrapper(unchanged_call)
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:44, 16:40] = 1
    request = FillRequest(
        task=Task.FILL,
        image=torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)),
        mask=mask,
        prompt="a red circle",
        seed=5,
        config=replace(FillConfig(steps=4), **config),
    )
    results = []
    for model in (native.model, wrapped):
        kind = nodes.native.from_native.NativeModels
        models = kind(model, native.clip, native.vae, native.recipe)
        assert (models.sample_rows is None) == (model is native.model)
        results.append(run_fill(request, models, nodes.comfy_host.ComfyHost(None)))
    our_image, core = (result.image for result in results)
    assert our_image.shape == core.shape
    assert (our_image - core).abs().max() < 4 / 255
    assert (our_image - core).abs().mean() < 1e-3


def test_text_encoders_of_ours_take_no_part_in_dynamic_memory(
    nodes: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """Newer ComfyUI would give a module without weights a buffer of size 0."""
    import comfy.model_patcher

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a patcher with dynamic memory was made")

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", refuse, raising=False)
    clip = nodes.native.native_model.native_clip(object(), nodes.comfy_host.ComfyHost())
    assert type(clip.patcher) is comfy.model_patcher.ModelPatcher


@pytest.mark.parametrize("is_dynamic", [True, False])
def test_weights_are_fetched_in_advance_where_comfyui_does(nodes: ModuleType, is_dynamic: bool):
    calls: dict[str, Any] = {}

    def diffusion_model(x: torch.Tensor, *_: Any, transformer_options: dict[str, Any]) -> Any:
        calls.update(transformer_options)
        return x

    patcher = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=diffusion_model),
        model_options={"transformer_options": {"patches": "kept"}},
        is_dynamic=lambda: is_dynamic,
    )
    none = torch.zeros(1)
    nodes.native.from_native._Transformer(patcher)(
        hidden_states=torch.zeros(1, 1, 16),
        timestep=none,
        guidance=None,
        encoder_hidden_states=none,
        pooled_projections=none,
        img_ids=torch.zeros(1, 3),
    )
    assert calls["prefetch_dynamic_vbars"] is is_dynamic
    assert calls["patches"] == "kept"
