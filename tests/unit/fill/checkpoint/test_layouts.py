"""Every tensor of a single file ends up where the folder has it, with the value it stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from onereward.fill.checkpoint.component import FileComponent
from onereward.fill.checkpoint.linear import QuantisedLinear
from onereward.fill.config import COMPONENTS, FillConfig, ModelConfig
from onereward.fill.models import FillModels, load_fill_models
from onereward.fill.pipeline import run_fill
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from support import checkpoints
from support.bundled_models import BUNDLED
from support.recording_host import RecordingHost

CPU = torch.device("cpu")


def config_of(component: str) -> dict[str, Any]:
    return json.loads((BUNDLED / component / "config.json").read_text())


def values(module: nn.Module) -> checkpoints.Tensors:
    """Return all weights by name, packed ones expanded."""
    tensors: checkpoints.Tensors = {
        name: value for name, value in module.named_parameters() if not name.endswith("packed")
    }
    for name, layer in module.named_modules():
        if isinstance(layer, QuantisedLinear):
            tensors[f"{name}.weight"] = layer.weight
    return tensors


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_plain_file_holds_what_the_folder_holds(
    component: str, precision: str, write: Any, folder_tensors: Any
):
    loaded = values(
        FileComponent(component, write(component, precision), config_of(component)).load(
            torch.bfloat16
        )
    )
    truth = folder_tensors[component]
    assert {name for name in loaded if "embed_tokens" not in name} == set(truth)
    for name, value in truth.items():
        stored = value.to(torch.float16) if precision == "fp16" else value
        assert torch.equal(loaded[name], stored.to(torch.bfloat16)), name


def exact(tensor: torch.Tensor, precision: str) -> torch.Tensor:
    """Return what a matrix is in a precision, by PyTorch's casts and the package gguf."""
    if precision.startswith("Q"):
        if tensor.ndim != 2 or tensor.shape[1] % 32:
            return tensor.float()
        kind = gguf.GGMLQuantizationType[precision]
        packed = gguf.quants.quantize(tensor.float().numpy(), kind)
        return torch.from_numpy(np.array(gguf.quants.dequantize(packed, kind)))
    dtype = torch.float8_e5m2 if precision == "e5m2" else torch.float8_e4m3fn
    if precision == "scaled":
        scale = tensor.float().abs().max() / 448
        return (tensor.float() / scale).to(dtype).float() * scale
    return tensor.to(dtype).float()


@pytest.mark.parametrize("precision", ["e4m3fn", "e5m2", "scaled", "Q8_0", "Q4_0", "Q5_1"])
def test_quantised_files_hold_what_their_format_says(precision: str, write: Any, file_tensors: Any):
    component = FileComponent(
        "transformer", write("transformer", precision), config_of("transformer")
    )
    module = component.load(torch.float32)
    loaded, original = values(module), file_tensors["transformer"]
    width = original["img_in.weight"].shape[0]
    fused = exact(original["single_blocks.1.linear1.weight"], precision)
    assert torch.equal(
        loaded["single_transformer_blocks.1.attn.to_k.weight"], fused[width : 2 * width]
    )
    assert torch.equal(loaded["single_transformer_blocks.1.proj_mlp.weight"], fused[3 * width :])
    shift, scale = exact(original["final_layer.adaLN_modulation.1.weight"], precision).chunk(2)
    assert torch.equal(loaded["norm_out.linear.weight"], torch.cat([scale, shift]))
    linears: list[Any] = [m for m in module.modules() if isinstance(m, nn.Linear)]
    assert all(isinstance(layer, QuantisedLinear) for layer in linears)
    scales = [layer.scale for layer in linears if layer.scale is not None]
    num_bytes = sum(tensor.nbytes for tensor in (*module.parameters(), *scales))
    assert component.num_bytes(torch.float32) == num_bytes


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_block_formats_expand_as_the_gguf_package_does(kind: str):
    from onereward.fill.checkpoint.codec import expand

    kind_id = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind_id]
    generator = np.random.default_rng(0)
    packed = generator.integers(0, 256, (6, 2 * size), dtype=np.uint8)
    # Scales are halves somewhere in a block: random bits there can be infinite, so none are.
    packed &= np.uint8(0x3B)
    truth = gguf.quants.dequantize(packed, kind_id)
    assert truth.shape == (6, 2 * block)
    values = expand(kind, torch.from_numpy(packed), torch.float32)
    torch.testing.assert_close(values, torch.from_numpy(truth), rtol=1e-6, atol=1e-6)


def test_every_fp8_value_is_the_same_with_and_without_the_devices_help(
    monkeypatch: pytest.MonkeyPatch,
):
    from onereward.fill.checkpoint import codec

    packed = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    for kind, dtype in codec.FP8.items():
        truth = packed.view(dtype).float()
        for devices in (("cpu",), ()):
            monkeypatch.setattr(codec, "_CASTING_DEVICES", devices)
            values = codec.expand(kind, packed, torch.float32)
            torch.testing.assert_close(values, truth, rtol=0, atol=0, equal_nan=True)


def test_a_scale_beside_a_weight_that_is_not_fp8_counts(tmp_path: Path, file_tensors: Any):
    tensors, name = dict(file_tensors["transformer"]), "double_blocks.0.img_mlp.0"
    path = checkpoints.save(
        tmp_path / "scaled.safetensors", tensors | {f"{name}.scale_weight": torch.tensor(0.5)}
    )
    module = FileComponent("transformer", path, config_of("transformer")).load(torch.float32)
    layer: Any = module.get_submodule("transformer_blocks.0.ff.net.0.proj")
    assert torch.equal(layer.weight, 0.5 * tensors[f"{name}.weight"].float())


def models_of(offload: str = "auto", **files: Path) -> FillModels:
    paths: dict[str, Any] = {name: str(path) for name, path in files.items()}
    config = ModelConfig(folder=str(BUNDLED), precision="bf16", offload=offload, **paths)
    return load_fill_models(config, CPU)


def image(models: FillModels) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    request = FillRequest(
        task=Task.FILL,
        image=torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)),
        mask=mask,
        prompt="a red circle",
        config=FillConfig(steps=2),
    )
    return run_fill(request, models, RecordingHost()).image


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """The image of the model folder."""
    return image(models_of())


@pytest.mark.parametrize("precision", ["bf16", "merged"])
def test_single_files_make_the_image_of_the_folder(precision: str, write: Any, truth: torch.Tensor):
    files = {component: write(component, "bf16") for component in COMPONENTS}
    files["transformer"] = write("transformer", precision)
    assert torch.equal(image(models_of(**files)), truth)


WHERE = {
    "transformer": "model.diffusion_model.",
    "vae": "vae.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.t5xxl.transformer.",
}
"""Prefixes of the components in a file of a whole model, as ComfyUI saves one."""


def test_a_whole_model_in_one_file_serves_as_every_component(
    tmp_path: Path, file_tensors: Any, truth: torch.Tensor
):
    whole = {
        prefix + key: value.to(torch.bfloat16)
        for component, prefix in WHERE.items()
        for key, value in file_tensors[component].items()
    }
    path = checkpoints.save(tmp_path / "checkpoint.safetensors", whole)
    assert torch.equal(image(models_of(**dict.fromkeys(COMPONENTS, path))), truth)


# Largest mean difference of a channel, of 1: twice what was measured with this model and image.
DIFFERENCE = {
    "Q8_0": 0.0015,
    "scaled": 0.003,
    "scaled new": 0.003,
    "e4m3fn": 0.005,
    "e5m2": 0.006,
}


@pytest.mark.parametrize("precision", DIFFERENCE)
def test_quantised_files_make_nearly_the_image_of_the_folder(
    precision: str, write: Any, truth: torch.Tensor
):
    files = {"transformer": write("transformer", precision)}
    files["text_encoder_2"] = write("text_encoder_2", precision)
    if not precision.startswith("Q"):
        files["text_encoder"] = write("text_encoder", precision)
    difference = (image(models_of(**files)) - truth).abs().mean().item()
    assert 0 < difference < DIFFERENCE[precision]


@pytest.mark.parametrize("precision", ["scaled", "Q8_0"])
def test_packed_weights_are_streamed_packed(precision: str, write: Any):
    files = {"transformer": write("transformer", precision)}
    streamed = models_of(offload="on", **files)
    assert streamed.transformer.num_bytes < models_of().transformer.num_bytes
    assert torch.equal(image(streamed), image(models_of(**files)))
    packed = [m.packed for m in streamed.transformer.module.modules() if hasattr(m, "packed")]
    assert all(p.dtype == torch.uint8 for p in packed)


def test_shards_are_read_as_one(tmp_path: Path, file_tensors: Any, folder_tensors: Any):
    names = sorted(file_tensors["transformer"])
    for index, keys in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        tensors = {key: file_tensors["transformer"][key] for key in keys}
        checkpoints.save(tmp_path / f"fill-{index:05d}-of-00002.safetensors", tensors)
    shard = tmp_path / "fill-00002-of-00002.safetensors"
    loaded = values(
        FileComponent("transformer", shard, config_of("transformer")).load(torch.bfloat16)
    )
    for name, value in folder_tensors["transformer"].items():
        assert torch.equal(loaded[name], value.to(torch.bfloat16)), name
    (tmp_path / "fill-00001-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="1 of them are missing"):
        FileComponent("transformer", shard)
