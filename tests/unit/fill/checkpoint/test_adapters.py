"""LoRA adapters on the shared transformer: fit, strength, and that taking them off is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from onereward.fill.checkpoint.adapters import apply_adapters
from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.models import FillModels, load_fill_models
from onereward.fill.pipeline import run_fill
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from support.bundled_models import BUNDLED
from support.recording_host import RecordingHost

RANK = 4
LAYER = "transformer_blocks.0.attn.to_q"


@pytest.fixture
def models() -> FillModels:
    """Weights of its own: adapters change the module."""
    return load_fill_models(ModelConfig(folder=str(BUNDLED)), torch.device("cpu"))


def lora(models: FillModels, path: Path, layers: tuple[str, ...] = (LAYER,), scale: float = 0.5):
    generator = torch.Generator().manual_seed(len(path.name))
    tensors = {}
    for layer in layers:
        out_features, in_features = models.transformer_tensors[f"{layer}.weight"].shape
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(
            RANK, in_features, generator=generator
        )
        tensors[f"transformer.{layer}.lora_B.weight"] = scale * torch.randn(
            out_features, RANK, generator=generator
        )
    save_file(tensors, path)
    return tensors


def image(models: FillModels) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    request = FillRequest(
        task=Task.FILL,
        image=torch.rand(1, 64, 64, 3, generator=generator),
        mask=mask,
        prompt="a red circle",
        config=FillConfig(steps=2),
    )
    return run_fill(request, models, RecordingHost()).image


def test_on_and_off_is_exact(models: FillModels, tmp_path: Path) -> None:
    lora(models, tmp_path / "a.safetensors")
    before = image(models)
    module = models.transformer.module
    state = {k: v.clone() for k, v in module.state_dict().items()}
    adapted = image(models.with_adapter(tmp_path / "a.safetensors", 1.0))
    assert not torch.equal(before, adapted)
    assert torch.equal(image(models), before)
    after = module.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[k], state[k]) for k in state)
    assert models.transformer.module is module, "the transformer is never loaded again"


@pytest.mark.parametrize("strength", [1.0, -0.5, 2.0])
def test_effect_equals_the_formula(models: FillModels, tmp_path: Path, strength: float) -> None:
    tensors = lora(models, tmp_path / "a.safetensors")
    layer: Any = models.transformer.module.get_submodule(LAYER)
    x = torch.randn(3, layer.in_features)
    down = tensors[f"transformer.{LAYER}.lora_A.weight"]
    up = tensors[f"transformer.{LAYER}.lora_B.weight"]
    expected = layer(x) + strength * (x @ down.T) @ up.T
    adapted = models.with_adapter(tmp_path / "a.safetensors", strength)
    apply_adapters(adapted.transformer.module, adapted.adapters)
    wrapped: Any = models.transformer.module.get_submodule(LAYER)
    assert torch.allclose(wrapped(x), expected, atol=1e-5)


def test_alpha_of_the_file_scales_the_effect(models: FillModels, tmp_path: Path) -> None:
    tensors = lora(models, tmp_path / "a.safetensors")
    tensors[f"transformer.{LAYER}.alpha"] = torch.tensor(2.0 * RANK)
    save_file(tensors, tmp_path / "scaled.safetensors")
    double = image(models.with_adapter(tmp_path / "a.safetensors", 2.0))
    scaled = image(models.with_adapter(tmp_path / "scaled.safetensors", 1.0))
    assert (double - scaled).abs().max() < 1e-4


def test_adapters_stack_and_orders_do_not_matter(models: FillModels, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    lora(models, first)
    lora(models, second, ("single_transformer_blocks.0.proj_mlp",))
    combined = image(models.with_adapter(first, 0.5).with_adapter(second, 1.0))
    reverse = image(models.with_adapter(second, 1.0).with_adapter(first, 0.5))
    assert (combined - reverse).abs().max() < 1e-4
    twice = image(models.with_adapter(first, 0.25).with_adapter(first, 0.25))
    once = image(models.with_adapter(first, 0.5))
    assert torch.equal(twice, once)


def test_strength_zero_equals_none(models: FillModels, tmp_path: Path) -> None:
    lora(models, tmp_path / "a.safetensors")
    assert torch.allclose(
        image(models.with_adapter(tmp_path / "a.safetensors", 0.0)), image(models), atol=1e-5
    )


def test_a_lora_for_another_model_is_refused(models: FillModels, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    wide = {
        f"transformer.{LAYER}.lora_A.weight": torch.zeros(RANK, 3072),
        f"transformer.{LAYER}.lora_B.weight": torch.zeros(3072, RANK),
    }
    save_file(wide, path)
    with pytest.raises(ValueError, match="for another model"):
        models.with_adapter(path, 1.0)
    foreign = {
        "transformer.down_blocks.0.to_q.lora_A.weight": torch.zeros(RANK, 8),
        "transformer.down_blocks.0.to_q.lora_B.weight": torch.zeros(8, RANK),
    }
    save_file(foreign, path)
    with pytest.raises(ValueError, match="no layer down_blocks"):
        models.with_adapter(path, 1.0)


def test_files_that_are_no_lora_are_refused(models: FillModels, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        models.with_adapter(tmp_path / "none.safetensors", 1.0)
    with pytest.raises(ValueError, match="can run code"):
        models.with_adapter(tmp_path / "x.pt", 1.0)
    save_file({"weight": torch.zeros(3)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match=r"plain\.safetensors"):
        models.with_adapter(tmp_path / "plain.safetensors", 1.0)
    lora(models, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="strength is 11"):
        models.with_adapter(tmp_path / "a.safetensors", 11.0)


def test_adapters_made_in_inference_mode_can_be_taken_off(
    models: FillModels, tmp_path: Path
) -> None:
    lora(models, tmp_path / "a.safetensors")
    with torch.inference_mode():
        before = image(models)
        image(models.with_adapter(tmp_path / "a.safetensors", 1.0))
        assert torch.equal(image(models), before)
    assert not any(p.is_inference() for p in models.transformer.module.parameters())


@pytest.mark.parametrize(
    "names",
    [
        ("transformer.x_embedder.lora_A.weight", "transformer.x_embedder.lora_B.weight"),
        ("lora_unet_img_in.lora_down.weight", "lora_unet_img_in.lora_up.weight"),
        ("diffusion_model.img_in.lora_A.weight", "diffusion_model.img_in.lora_B.weight"),
    ],
    ids=["diffusers", "kohya", "original"],
)
def test_a_lora_of_flux_dev_is_widened_to_the_inputs_of_fill(
    names: tuple[str, str], models: FillModels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    width, channels = models.transformer_tensors["x_embedder.weight"].shape
    latents = models.transformer_tensors["proj_out.weight"].shape[0]
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(RANK, latents, generator=generator)
    up = torch.randn(width, RANK, generator=generator)
    save_file(dict(zip(names, (down, up), strict=True)), tmp_path / "dev.safetensors")
    x = torch.randn(3, channels, generator=generator)
    layer: Any = models.transformer.module.get_submodule("x_embedder")
    expected = layer(x) + (x[:, :latents] @ down.T) @ up.T
    with caplog.at_level("INFO", logger="onereward.fill"):
        adapted = models.with_adapter(tmp_path / "dev.safetensors", 1.0)
    assert f"from {latents} to {channels} channels" in caplog.text
    apply_adapters(adapted.transformer.module, adapted.adapters)
    wrapped: Any = models.transformer.module.get_submodule("x_embedder")
    assert torch.allclose(wrapped(x), expected, atol=1e-5)


def test_a_kohya_lora_reaches_the_layers_of_its_fused_names(
    models: FillModels, tmp_path: Path
) -> None:
    width = models.transformer_tensors["x_embedder.weight"].shape[0]
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(RANK, width, generator=generator)
    up = torch.randn(3 * width, RANK, generator=generator)
    name, alpha = "lora_unet_double_blocks_0_img_attn_qkv", RANK / 2
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    save_file(tensors | {f"{name}.alpha": torch.tensor(alpha)}, tmp_path / "kohya.safetensors")
    x = torch.randn(3, width, generator=generator)
    transformer = models.transformer.module
    layers = [f"transformer_blocks.0.attn.to_{n}" for n in "qkv"]
    plain = [transformer.get_submodule(layer)(x) for layer in layers]
    adapted = models.with_adapter(tmp_path / "kohya.safetensors", 1.0)
    apply_adapters(transformer, adapted.adapters)
    for layer, before, rows in zip(layers, plain, up.chunk(3), strict=True):
        expected = before + alpha / RANK * (x @ down.T) @ rows.T
        assert torch.allclose(transformer.get_submodule(layer)(x), expected, atol=1e-4), layer
