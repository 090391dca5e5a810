"""Small judges with random weights, in the format of the published Qwen2.5-VL folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from onereward.lab.judge.build import JudgeShape, build_judge

BUNDLED_LIKE = JudgeShape(
    width=64,
    layers=2,
    heads=2,
    vision_width=64,
    vision_layers=2,
    vision_heads=2,
    full_layers=(1,),
    min_pixels=32 * 32,
    max_pixels=256 * 256,
)
REAL_LIKE = replace(
    BUNDLED_LIKE,
    width=128,
    vision_width=160,
    patch_size=14,
    window_size=112,
    min_pixels=56 * 56,
    max_pixels=28 * 28 * 1280,
)
"""The published patches, windows and limits: several windows, and full attention between them."""


def make_judge(folder: Path, shape: JudgeShape = BUNDLED_LIKE, seed: int = 0) -> Path:
    """Write a judge; return its folder."""
    build_judge(folder, shape, seed)
    return folder


def make_qwen2_vl(folder: Path) -> Path:
    """Write a judge of the older family; return its folder."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    make_judge(folder)
    newer = json.loads((folder / "config.json").read_text())
    text = {
        name: newer["text_config"][name]
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
            *("num_attention_heads", "num_key_value_heads", "rope_parameters"),
            *("initializer_range", "bos_token_id", "eos_token_id", "pad_token_id"),
        )
    }
    vision: dict[str, Any] = {"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2}
    vision |= {"hidden_size": text["hidden_size"], "patch_size": BUNDLED_LIKE.patch_size}
    vision |= {"initializer_range": text["initializer_range"]}
    tokens = {name: newer[name] for name in newer if name.endswith("_token_id")}
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = Qwen2VLForConditionalGeneration(config)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


def lay_out_as_published(folder: Path) -> str:
    """Move the chat template to where the published folders have it; return it.

    There the processor's ``chat_template.json`` knows images, and the tokenizer's own template
    adds strings, so that it fails on anything else.
    """
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    path = folder / "tokenizer_config.json"
    text_only = "{% for m in messages %}{{ '<|im_start|>' + m.content }}{% endfor %}"
    values = json.loads(path.read_text()) | {"chat_template": text_only}
    path.write_text(json.dumps(values))
    return template


def random_images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    """Return smooth images ``[3, H, W]`` of whole 8-bit values, as files have them."""
    generator = torch.Generator().manual_seed(7)
    images = []
    for height, width in sizes:
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        images.append((fine[0] * 255).round() / 255)
    return images


def as_uint8(image: torch.Tensor) -> torch.Tensor:
    """Return an image of whole 8-bit values as bytes."""
    return (image * 255).round().to(torch.uint8)
