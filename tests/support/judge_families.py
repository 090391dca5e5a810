"""Small judges of the newer families, with random weights, in folders like the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from onereward.lab.judge.build import build_tokenizer
from onereward.reward.vlm.families import MODEL_TYPES

FAMILIES = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
MIN_PIXELS, MAX_PIXELS = 64 * 64, 512 * 512
PREPROCESSOR = {
    "size": {"longest_edge": MAX_PIXELS, "shortest_edge": MIN_PIXELS},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
"""As published for Qwen3-VL-4B-Instruct, with other limits of the pixels."""


def make_family(folder: Path, kind: str, **text: Any) -> Path:
    """Write a judge of one of the families; return its folder.

    Args:
        folder: Where it is written.
        kind: A ``model_type``.
        text: Further or other values of the language model's config.
    """
    import transformers

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    cls = getattr(transformers, MODEL_TYPES[kind])
    config = cls.config_class(
        text_config=_text(kind, len(tokenizer)) | text,
        vision_config=_vision(kind, text.get("hidden_size", 64)),
        tie_word_embeddings=False,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = cls(config)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def _text(kind: str, vocab_size: int) -> dict[str, Any]:
    is_newest = kind.startswith("qwen3_5")
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    rope["mrope_section"] = [2, 1, 1] if is_newest else [4, 2, 2]
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4 if is_newest else 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32 if is_newest else 16,
        "initializer_range": 0.1,
        "rope_parameters": rope,
    }
    if is_newest:
        # Three layers of linear attention, then one of full attention.
        rope["partial_rotary_factor"] = 0.25
        values |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        values |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    if kind.endswith("moe"):
        values |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
        values |= {"shared_expert_intermediate_size": 64} if is_newest else {}
    return values


def _vision(kind: str, width: int) -> dict[str, Any]:
    values = {
        **{"depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4},
        **{"out_hidden_size": width, "num_position_embeddings": 144, "initializer_range": 0.1},
    }
    return values if kind.startswith("qwen3_5") else values | {"deepstack_visual_indexes": [0, 1]}
