"""Folders of the published sizes whose weights are holes: all that headers and configs tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .published import CLIP, SCHEDULER, T5, TRANSFORMER, VAE

FLUX_LAYERS = {"num_layers": 19, "num_single_layers": 38}
# Source: the config of Qwen/Qwen2.5-VL-7B-Instruct.
QWEN_TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
}
PREPROCESSOR = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 12845056,
}


def write_flux_fill(folder: Path) -> Path:
    """Write FLUX.1-Fill without its numbers; return the folder."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    transformer: dict[str, Any] = TRANSFORMER | FLUX_LAYERS
    vae: dict[str, Any] = VAE
    clip: dict[str, Any] = CLIP | {"num_hidden_layers": 12}
    t5: dict[str, Any] = T5 | {"num_layers": 24}
    with torch.device("meta"):
        modules: dict[str, Any] = {
            "transformer": FluxTransformer2DModel(**transformer),
            "vae": AutoencoderKL(**vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**clip)),
            "text_encoder_2": T5EncoderModel(T5Config(**t5)),
        }
    for name, module in modules.items():
        is_ours = name in ("transformer", "vae")
        save = module.save_config if is_ours else module.config.save_pretrained
        save(folder / name)
        file = "diffusion_pytorch_model" if is_ours else "model"
        write_holes(folder / name / f"{file}.safetensors", dict(module.named_parameters()))
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        (folder / name / "tokenizer.json").write_text("{}", encoding="utf-8")
    FlowMatchEulerDiscreteScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    index = {"_class_name": "FluxFillPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_qwen(folder: Path) -> Path:
    """Write Qwen2.5-VL-7B without its numbers, under the published names; return the folder."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text: dict[str, Any] = QWEN_TEXT
    vision: dict[str, Any] = QWEN_VISION
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    with torch.device("meta"):
        model: nn.Module = Qwen2_5_VLForConditionalGeneration(config)
    config.save_pretrained(folder)
    names = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): p
        for name, p in model.named_parameters()
    }
    write_holes(folder / "model.safetensors", names)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    return folder


def write_holes(path: Path, tensors: dict[str, nn.Parameter]) -> None:
    """Write a safetensors file in bf16 that takes no room on the disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 2 * tensor.numel()
        shape = list(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
