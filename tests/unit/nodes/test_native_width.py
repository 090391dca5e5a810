"""One file of the published width, sampled by us and by ComfyUI's own model: the same latents.

ComfyUI loads the file with its own loader and samples with its own sampler; only what goes in comes
from our bridge.
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from onereward.fill import pipeline
from onereward.fill.checkpoint.linear import QuantisedLinear
from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.models import FillModels, load_fill_models
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from support import checkpoints
from support.bundled_models import BUNDLED
from support.published import VAE, write_transformer
from support.recording_host import RecordingHost
from support.tolerance import assert_equal_models

pytestmark = pytest.mark.slow

SIDE, SEED, RANK = 128, 7, 4
TEXT_SIZES = {"joint_attention_dim": 128, "pooled_projection_dim": 64}
"""Those of the bundled text encoders."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled text encoders with a VAE of FLUX's latents and a transformer of FLUX's width."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(BUNDLED, folder, ignore=shutil.ignore_patterns("transformer", "vae"))
    torch.manual_seed(0)
    narrow: dict[str, Any] = VAE | {"block_out_channels": [16] * 4, "norm_num_groups": 8}
    AutoencoderKL(**narrow).save_pretrained(folder / "vae")
    write_transformer(folder / "transformer", **TEXT_SIZES)
    return folder


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    """A file of the transformer with no two rows alike: bf16, 1 GB, diffusers' layout."""
    tensors: checkpoints.Tensors = {}
    for file in sorted((folder / "transformer").glob("*.safetensors")):
        tensors |= checkpoints.load_file(file)
    generator = torch.Generator().manual_seed(1)
    for name in sorted(tensors):
        value = tensors[name]
        factor = torch.rand(value.shape[0], generator=generator) + 0.5
        if name.endswith("bias"):
            # ComfyUI rounds biases to fp8 where weights are: these are of that type already.
            value.copy_((0.1 * (factor - 1)).to(torch.float8_e4m3fn))
        else:
            value.mul_(factor.to(value).reshape(-1, *[1] * (value.ndim - 1)))
    return checkpoints.save(folder / "weights.safetensors", tensors)


def write(path: Path, weights: Path, layout: str, precision: str) -> Path:
    tensors = checkpoints.load_file(weights)
    if layout == "original":
        tensors = checkpoints.original_transformer(tensors)
    if precision == "fp8":
        tensors = checkpoints.as_fp8(tensors, torch.float8_e4m3fn)
    elif precision == "scaled":
        tensors = checkpoints.as_scaled_fp8(tensors)
    return checkpoints.save(path, tensors)


def write_lora(path: Path, native: Any) -> tuple[Path, int]:
    """Write a LoRA for every matrix, as kohya does; return it and the number of layers."""
    generator = torch.Generator().manual_seed(2)
    lora: checkpoints.Tensors = {}
    for key, value in native.model.diffusion_model.state_dict().items():
        if value.ndim == 2:
            name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            rows, columns = value.shape
            lora[f"{name}.lora_down.weight"] = 0.05 * torch.randn(
                RANK, columns, generator=generator
            )
            lora[f"{name}.lora_up.weight"] = 0.05 * torch.randn(rows, RANK, generator=generator)
            lora[f"{name}.alpha"] = torch.tensor(RANK / 2)
    return checkpoints.save(path, lora), len(lora) // 3


def request(steps: int) -> FillRequest:
    """Return an edit with the bundled recipe's true_cfg: both prompts take part."""
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 32:96, 40:80] = 1
    return FillRequest(
        task=Task.FILL,
        image=torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0)),
        mask=mask,
        prompt="a red circle",
        config=FillConfig(steps=steps, target_size=SIDE),
        seed=SEED,
    )


def by_us(edit: FillRequest, models: FillModels, host: Any) -> torch.Tensor:
    """Return the final latents ``[C, h, w]`` of our sampler, as the VAE decodes them."""
    latents: list[torch.Tensor] = []
    decode = pipeline.decode_latent

    def keep(latent: torch.Tensor, *arguments: Any) -> torch.Tensor:
        latents.append(latent / VAE["scaling_factor"] + VAE["shift_factor"])
        return decode(latent, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "decode_latent", keep)
        pipeline.run_fill(edit, models, host)
    return latents[0]


def by_comfyui(
    edit: FillRequest, nodes: ModuleType, models: FillModels, model: Any
) -> torch.Tensor:
    """Return those of ComfyUI's sampler with its own model, and with what our bridge prepares."""
    import comfy.sample

    host = nodes.comfy_host.ComfyHost(None)
    out = nodes.OneRewardNativeInputs.PREPARE_CLASS_CLONE({}).execute(
        clip=nodes.native.native_model.native_clip(models, host),
        vae=nodes.native.native_model.native_vae(models, host),
        image=edit.image,
        mask=edit.mask,
        task=edit.task.value,
        prompt=edit.prompt,
        recipe="bundled",
        settings=edit.config,
        model=model,
    )
    positive, negative, latent, _, shifted, steps, cfg, _ = out.args
    noise = comfy.sample.prepare_noise(latent["samples"], SEED)
    how = (shifted, noise, steps, cfg, "euler", "simple", positive, negative, latent["samples"])
    with torch.inference_mode():
        return comfy.sample.sample(*how, seed=SEED, disable_pbar=True)[0]


def by_us_on(edit: FillRequest, native: Any, models: FillModels, nodes: ModuleType) -> torch.Tensor:
    """Return those of our sampler with ComfyUI's model, LoRAs and all."""
    host = nodes.comfy_host.ComfyHost(None)
    clip = nodes.native.native_model.native_clip(models, host)
    vae = nodes.native.native_model.native_vae(models, host)
    native_models = nodes.native.from_native.NativeModels(native, clip, vae, models.recipe)
    return by_us(edit, native_models, host)


@pytest.fixture
def quick_attachment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PEFT learn a layer's device from the packed weight.

    Else it asks for the weight twenty times, and all are expanded: two minutes for one file.
    """
    packed = property(lambda layer: layer.packed)
    monkeypatch.setattr(QuantisedLinear, "qweight", packed, raising=False)


CASES = {
    "original-bf16": ("original", "bf16", False, 2),
    "diffusers-fp8-lora": ("diffusers", "fp8", True, 1),
    "original-scaled-fp8": ("original", "scaled", False, 1),
}
"""Layout, precision, whether with a LoRA, and steps: each expands fp8 anew, which takes longest."""


@pytest.mark.usefixtures("quick_attachment")
@pytest.mark.parametrize("case", CASES)
def test_latents_are_those_of_comfyuis_own_loader_and_sampler(
    case: str, folder: Path, weights: Path, nodes: ModuleType, tmp_path: Path
):
    import comfy.sd
    import comfy.utils

    layout, precision, with_lora, steps = CASES[case]
    edit = request(steps)
    file = write(tmp_path / "wide.safetensors", weights, layout, precision)
    config = ModelConfig(
        folder=str(folder), transformer=str(file), precision="fp32", recipe="bundled"
    )
    models = load_fill_models(config, torch.device("cpu"))
    native: Any = comfy.sd.load_diffusion_model(str(file))
    if with_lora:
        lora, layers = write_lora(tmp_path / "lora.safetensors", native)
        models = models.with_adapter(lora, 0.8)
        tensors = comfy.utils.load_torch_file(str(lora))
        native, _ = comfy.sd.load_lora_for_models(native, None, tensors, 0.8, 0.0)
        assert len(native.patches) == layers, "ComfyUI puts every layer on"
    native_result = by_comfyui(edit, nodes, models, native)
    if with_lora:
        assert_equal_models(
            by_us_on(edit, native, models, nodes), native_result, "our sampler, their model"
        )
    del native  # only one of the two is in memory
    gc.collect()
    assert_equal_models(by_us(edit, models, RecordingHost()), native_result, case)
