"""A folder with the published FLUX.1-Fill configs, cut to one layer each, and random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

# Source: the configs of black-forest-labs/FLUX.1-Fill-dev, with num_layers cut.
TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 384,
    "out_channels": 64,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "force_upcast": True,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": True,
}
CLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "vocab_size": 49408,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
T5 = {
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_layers": 1,
    "num_heads": 64,
    "vocab_size": 32128,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-06,
    "tie_word_embeddings": False,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
SHARD_SIZE = "400MB"
"""Makes several shards of the transformer and of T5, as published."""
PATTERN_SIZE = 1 << 20


def write_published(folder: Path) -> None:
    """Write the folder, 2 GB in bf16."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    from onereward.lab.base_model.tokenizers import build_clip_tokenizer, build_t5_tokenizer

    builders = {
        "transformer": lambda: FluxTransformer2DModel(**TRANSFORMER),
        "vae": lambda: AutoencoderKL(**VAE),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**CLIP)),
        "text_encoder_2": lambda: T5EncoderModel(T5Config(**T5)),
    }
    for name, build in builders.items():
        with torch.device("meta"):
            module: Any = build()
        _fill(module)
        module.save_pretrained(folder / name, max_shard_size=SHARD_SIZE)
    FlowMatchEulerDiscreteScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    build_clip_tokenizer().save_pretrained(folder / "tokenizer")
    build_t5_tokenizer().save_pretrained(folder / "tokenizer_2")
    index = {"_class_name": "FluxFillPipeline", "_diffusers_version": "0.32.0"}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def write_transformer(folder: Path, **changes: Any) -> None:
    """Write only a transformer of that width, about 1 GB in bf16."""
    from diffusers import FluxTransformer2DModel

    config: dict[str, Any] = TRANSFORMER | changes
    with torch.device("meta"):
        module = FluxTransformer2DModel(**config)
    _fill(module)
    module.save_pretrained(folder, max_shard_size=SHARD_SIZE)


def _fill(module: Any) -> None:
    """Give a module from the meta device bf16 weights: small noise, and ones for norms."""
    generator = torch.Generator().manual_seed(0)
    # One block over and over: drawing a billion numbers would take most of the test's time.
    pattern = torch.randn(PATTERN_SIZE, generator=generator).mul_(0.02).to(torch.bfloat16)
    module.to(torch.bfloat16).to_empty(device="cpu")
    if hasattr(module, "tie_weights"):
        module.tie_weights()  # T5 shares its embedding, which is stored once
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            flat = parameter.view(-1)
            for start in range(0, flat.numel(), PATTERN_SIZE):
                part = flat[start : start + PATTERN_SIZE]
                part.copy_(pattern[: part.numel()])
