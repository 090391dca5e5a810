"""What the templates name and users have: the published model files, and photographs.

The model has the published names, kinds of numbers and tensor names, but few and small layers with
random weights, and its VAE, whose size is fixed, holds zeros only. The photographs are small, so
that 50 steps take seconds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TRANSFORMER = "diffusion_models/flux.1-fill-dev-OneReward-transformer_fp8.safetensors"
VAE = "vae/ae.safetensors"
CLIP = "text_encoders/clip_l.safetensors"
T5 = "text_encoders/t5xxl_fp8_e4m3fn_scaled.safetensors"
ADAPTER = "loras/pytorch_lora_weights.safetensors"
TEXT_ENCODER = "text_encoders/qwen3vl_4b_fp8_scaled.safetensors"
JUDGE = "onereward/Qwen3-VL-4B-Instruct"
PHOTOGRAPHS = ("onereward_photo.png", "onereward_photo_text.png")
WIDTH, TEXT_WIDTH, RANK = 128, 64, 4
"""Of the transformer, of both text encoders, of the adapter."""


def write_template_files(base: Path) -> None:
    """Write them below a base directory of ComfyUI, if they are not there."""
    from support.judge_families import make_family
    from support.workflows import example_image

    (base / "input").mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        if not (base / "input" / name).exists():
            example_image().save(base / "input" / name)
    if not (base / "models" / JUDGE).exists():
        make_family(base / "models" / JUDGE, "qwen3_vl")
    for name, write in WRITERS.items():
        path = base / "models" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)


def _write_transformer(path: Path) -> None:
    """Plain fp8, biases and norms too, as the published file."""
    import torch
    from diffusers import FluxTransformer2DModel

    from support.checkpoints import as_fp8, save

    model = FluxTransformer2DModel(
        in_channels=384,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=1,
        attention_head_dim=WIDTH,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
    )
    save(path, as_fp8(_random(model), torch.float8_e4m3fn))


def _write_clip(path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    from support.checkpoints import save

    config = CLIPTextConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=49408,
        eos_token_id=49407,
    )
    save(path, _random(CLIPTextModel(config)))


def _write_t5(path: Path) -> None:
    """fp8 with a scale per matrix, as the published file."""
    from transformers import T5Config, T5EncoderModel

    from support.checkpoints import as_scaled_fp8, save

    config = T5Config(
        d_model=TEXT_WIDTH,
        d_ff=TEXT_WIDTH,
        d_kv=TEXT_WIDTH,
        num_layers=1,
        num_heads=1,
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
    )
    tensors = _random(T5EncoderModel(config))
    tensors.pop("encoder.embed_tokens.weight", None)
    save(path, as_scaled_fp8(tensors))


def _write_text_encoder(path: Path) -> None:
    """A name alone: ComfyUI's class of it has fixed sizes, too large to be made here."""
    import torch

    from support.checkpoints import save

    save(path, {"model.visual.patch_embed.proj.bias": torch.zeros(8)})


def _write_adapter(path: Path) -> None:
    """A LoRA of the transformer's query projections, as diffusers saves one."""
    import torch

    from support.checkpoints import save

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in ("transformer_blocks.0", "single_transformer_blocks.0"):
        layer = f"transformer.{block}.attn.to_q"
        tensors[f"{layer}.lora_A.weight"] = torch.randn(RANK, WIDTH, generator=generator)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(WIDTH, RANK, generator=generator)
    save(path, tensors)


def _write_vae(path: Path) -> None:
    """Zeros in the published VAE's shapes: a file with a hole, which takes no room on the disk."""
    import torch
    from diffusers import AutoencoderKL

    from support.published import VAE as CONFIG

    with torch.device("meta"):
        tensors = AutoencoderKL(**CONFIG).state_dict()
    header: dict[str, Any] = {}
    end = 0
    for key, value in tensors.items():
        start, end = end, end + 2 * value.numel()
        header[key] = {
            "dtype": "BF16",
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def _random(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return tensors of a module's shapes in bf16: small noise, and ones for norms."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, value in module.state_dict().items():
        if value.ndim == 1:
            tensors[key] = torch.full(value.shape, float("norm" in key), dtype=torch.bfloat16)
        elif value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) / value.shape[-1] ** 0.5
            tensors[key] = noise.to(torch.bfloat16)
    return tensors


WRITERS: dict[str, Callable[[Path], None]] = {
    TRANSFORMER: _write_transformer,
    VAE: _write_vae,
    CLIP: _write_clip,
    T5: _write_t5,
    TEXT_ENCODER: _write_text_encoder,
    ADAPTER: _write_adapter,
}
