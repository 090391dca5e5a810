"""Small random judges in the format of the published Qwen2.5-VL folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onereward.fill.task import TASKS
from onereward.reward.query import Query

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class JudgeShape:
    """What differs between the small judges."""

    patch_size: int = 8
    window_size: int = 64
    vision_width: int = 64
    width: int = 64
    heads: int = 2
    min_pixels: int = 32 * 32
    max_pixels: int = 256 * 256


BUNDLED_LIKE = JudgeShape()
REAL_LIKE = JudgeShape(
    patch_size=14,
    window_size=112,
    vision_width=160,
    width=128,
    heads=2,
    min_pixels=56 * 56,
    max_pixels=28 * 28 * 1280,
)


def make_judge(folder: Path, shape: JudgeShape = BUNDLED_LIKE, seed: int = 0) -> Path:
    """Write a judge with random weights."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer, shape))
    model.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": shape.patch_size,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": shape.min_pixels,
        "max_pixels": shape.max_pixels,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    return folder


def make_tokenizer() -> Any:
    """Build a Qwen2 tokenizer that has every word of the questions as one token."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    words = {"Yes", "No", "user", "assistant", "a", "red", "circle"}
    for task, spec in TASKS.items():
        for dimension in spec.dimensions:
            words.update(Query(task, dimension, "x").question().split())
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        min_frequency=1,
        show_progress=False,
    )
    backend = Qwen2Tokenizer()._tokenizer
    backend.train_from_iterator(sorted([*words, *(f" {w}" for w in words)]) * 3, trainer)
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,  # pyright: ignore[reportArgumentType]
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
        model_max_length=4096,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _config(tokenizer: Any, shape: JudgeShape) -> Any:
    from transformers import Qwen2_5_VLConfig

    token = tokenizer.convert_tokens_to_ids
    half = shape.width // shape.heads // 2
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "intermediate_size": 2 * shape.width,
        "num_hidden_layers": 2,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": 4096,
        "initializer_range": 0.07,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": shape.vision_width,
        "intermediate_size": 2 * shape.vision_width,
        "num_heads": 2,
        "patch_size": shape.patch_size,
        "window_size": shape.window_size,
        "out_hidden_size": shape.width,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.07,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
