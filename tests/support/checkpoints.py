"""Writes single files as people have them, by routes that share no code with ours.

The original layout comes from ComfyUI's own key map and from the VAE converter of diffusers run
backwards by values; fp8 from PyTorch's casts; GGUF from the package ``gguf``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from support import machine

Tensors = dict[str, torch.Tensor]
BUNDLED = machine.ROOT / "assets" / "fill"
SCALE_KEY = "scaled_fp8"


def part_tensors(part: str, folder: Path = BUNDLED) -> Tensors:
    """Return the tensors of a part of a model folder."""
    return load_file(next((folder / part).glob("*.safetensors")))


def original_transformer(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return a diffusers transformer in the original layout, by ComfyUI's map between them.

    ComfyUI must be importable: the caller uses the fixture ``comfy_base``.
    """
    from comfy.utils import flux_to_diffusers  # noqa: TID251 -- an independent truth

    width = tensors["x_embedder.weight"].shape[0]
    config = {"depth": _count(tensors, "transformer_blocks")}
    config["depth_single_blocks"] = _count(tensors, "single_transformer_blocks")
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for key, target in flux_to_diffusers(config | {"hidden_size": width}).items():
        if key not in tensors:
            continue
        value, start = tensors[key], 0
        if isinstance(target, tuple):
            name = target[0]
            if target[1] is not None:
                start = target[1][1]
            if len(target) > 2:
                value = target[2](value)  # swapping twice is no swap
        else:
            name = target
        pieces.setdefault(name, []).append((start, value))
    return {
        name: torch.cat([value for _, value in sorted(parts, key=lambda p: p[0])]).contiguous()
        for name, parts in pieces.items()
    }


def _count(tensors: Mapping[str, torch.Tensor], name: str) -> int:
    return len({key.split(".")[1] for key in tensors if key.startswith(name + ".")})


def comfy_text_encoder(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return CLIP as ``clip_l.safetensors`` names it."""
    return {
        key if key.startswith("text_model.") else f"text_model.{key}": value
        for key, value in tensors.items()
    }


def original_vae(tensors: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> Tensors:
    """Return a diffusers VAE in the original layout.

    diffusers' converter goes the other way: it is given tensors whose only value is a number, and
    where each number ends up says where its tensor came from.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    names = _original_vae_names(tensors)
    numbered = {name: torch.full((1, 1, 1, 1), float(i)) for i, name in enumerate(names)}
    converted = convert_ldm_vae_checkpoint(dict(numbered), config)
    result = {}
    for key, number in converted.items():
        if key in tensors:
            name, value = names[int(number.flatten()[0])], tensors[key]
            # The original has its attention as 1 x 1 convolutions.
            is_projection = value.ndim == 2 and ".attn_" in name
            result[name] = value[:, :, None, None].clone() if is_projection else value
    assert len(result) == len(tensors), "every tensor has a place in the original layout"
    return result


def _original_vae_names(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    levels = len({key.split(".")[2] for key in tensors if key.startswith("encoder.down_blocks.")})
    names = []
    for side, direction in (("encoder", "down"), ("decoder", "up")):
        names += [f"{side}.{module}" for module in ("conv_in", "conv_out", "norm_out")]
        blocks = [f"{side}.mid.block_{i}" for i in (1, 2)]
        for level in range(levels):
            blocks += [f"{side}.{direction}.{level}.block.{i}" for i in range(4)]
            names.append(f"{side}.{direction}.{level}.{direction}sample.conv")
        for block in blocks:
            names += [f"{block}.{m}" for m in ("conv1", "conv2", "norm1", "norm2", "nin_shortcut")]
        names += [f"{side}.mid.attn_1.{m}" for m in ("norm", "q", "k", "v", "proj_out")]
    names += ["quant_conv", "post_quant_conv"]
    return [f"{name}.{end}" for name in names for end in ("weight", "bias")]


def as_fp8(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Tensors:
    """Cast every tensor, biases and norms too, as plain fp8 files have them."""
    return {key: value.to(dtype) for key, value in tensors.items()}


def as_scaled_fp8(tensors: Mapping[str, torch.Tensor], scale_name: str = "scale_weight") -> Tensors:
    """Store matrices as e4m3fn with a scale per tensor, as ComfyUI's scaled files have them."""
    result: Tensors = {SCALE_KEY: torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for key, value in tensors.items():
        if value.ndim != 2 or not key.endswith(".weight"):
            result[key] = value
            continue
        scale = value.float().abs().max() / 448
        result[key] = (value.float() / scale).to(torch.float8_e4m3fn)
        result[key.removesuffix("weight") + scale_name] = scale
        result[key.removesuffix("weight") + "scale_input"] = torch.tensor(1.0)
    return result


def write_gguf(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    quantisation: str,
    architecture: str = "flux",
    is_quantised: Callable[[str, torch.Tensor], bool] = lambda _, value: (
        value.ndim == 2 and value.shape[1] % 32 == 0
    ),
) -> None:
    """Write matrices in one quantisation and everything else in float32."""
    import gguf

    kind = gguf.GGMLQuantizationType[quantisation]
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in tensors.items():
        values = value.float().numpy()
        if is_quantised(key, value):
            writer.add_tensor(key, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_t5(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return a T5 encoder under llama.cpp's names."""
    names = {
        **{"layer.0.SelfAttention.relative_attention_bias": "attn_rel_b"},
        **{f"layer.0.SelfAttention.{n}": f"attn_{n}" for n in "qkvo"},
        **{"layer.0.layer_norm": "attn_norm", "layer.1.layer_norm": "ffn_norm"},
        **{"layer.1.DenseReluDense.wi_0": "ffn_gate", "layer.1.DenseReluDense.wi_1": "ffn_up"},
        **{"layer.1.DenseReluDense.wo": "ffn_down"},
    }
    outside = {
        "shared.weight": "token_embd.weight",
        "encoder.final_layer_norm.weight": "enc.output_norm.weight",
    }
    result = {}
    for key, value in tensors.items():
        if key in outside:
            result[outside[key]] = value
            continue
        _, _, block, module = key.removesuffix(".weight").split(".", 3)
        result[f"enc.blk.{block}.{names[module]}.weight"] = value
    return result


def save(path: Path, tensors: Tensors, **metadata: str) -> Path:
    """Write a safetensors file; return its path."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata or None)
    return path
