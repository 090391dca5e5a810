"""The untrained judge: Qwen2.5-VL's architecture in the small, in a folder like the real one's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...fill.task import TASKS
from ...reward.query import Query
from ..base_model.tokenizers import make_merges
from ..world.canvas import SIZE
from ..world.conditions import EXTEND_PROMPT
from ..world.lettering import LETTERS
from ..world.shapes import COLOUR_NAMES, SHAPE_NAMES
from .pairs.vqa_questions import QUESTION_WORDS

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
# The published template without its default system turn and its videos.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_INIT = 0.07
"""Standard deviation of initial weights; with the usual 0.02 a model this small did not learn."""
_MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeShape:
    """Sizes of a small judge.

    Example: ``build_judge(folder, JudgeShape(width=64, heads=2), seed=0)``.
    """

    width: int = 160
    """Width of the language model."""
    layers: int = 3
    heads: int = 5
    vision_width: int = 192
    """Width of the vision tower."""
    vision_layers: int = 4
    vision_heads: int = 6
    patch_size: int = 8
    """Side of a patch in pixels; two by two patches make one token."""
    window_size: int = SIZE
    """Side of an attention window of the vision tower, in pixels."""
    full_layers: tuple[int, ...] = (0, 1, 2, 3)
    """Layers of the vision tower that attend to the whole image."""
    min_pixels: int = SIZE * SIZE
    """Smaller images are enlarged."""
    max_pixels: int = SIZE * SIZE
    """Larger images are shrunk."""


def build_judge(folder: Path, shape: JudgeShape, seed: int) -> None:
    """Write an untrained judge, tokenizer included; its weights depend on the seed alone."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_model_config(shape, tokenizer))
    model.save_pretrained(folder)
    text = json.dumps(_preprocessor(shape), indent=2)
    (folder / "preprocessor_config.json").write_text(text)


def build_tokenizer() -> Any:
    """Build a Qwen2 tokenizer: one token per word and letter of the questions, else bytes."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    kind: Any = Qwen2Tokenizer  # its annotation lacks the list of pairs that it takes
    split = kind()._tokenizer.pre_tokenizer.pre_tokenize_str
    texts = [text for word in _words() for text in (word, f" {word}")]
    pieces = dict.fromkeys(piece for text in texts for piece, _ in split(text))
    merges = make_merges(list(piece) for piece in pieces)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL_TOKENS, *alphabet, *(first + second for first, second in merges)]
    tokenizer = kind(
        vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        pad_token=SPECIAL_TOKENS[0],
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=_MAX_LENGTH,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _words() -> list[str]:
    words = {"user", "assistant", "Yes", "No", "a", "the", "text", "remove"}
    words |= {*COLOUR_NAMES, *SHAPE_NAMES, *LETTERS, *QUESTION_WORDS}
    for task, spec in TASKS.items():
        for dimension in spec.dimensions:
            words |= set(Query(task, dimension, EXTEND_PROMPT).question().split())
    return sorted(words)


def _model_config(shape: JudgeShape, tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig

    token = tokenizer.convert_tokens_to_ids
    # The language model.
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "intermediate_size": shape.width * 5 // 2,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": _MAX_LENGTH,
        "initializer_range": _INIT,
        "rope_parameters": _rope(shape.width // shape.heads),
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
    }
    # The vision tower, whose tokens have the width of the language model.
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "intermediate_size": shape.vision_width * 5 // 2,
        "num_heads": shape.vision_heads,
        "patch_size": shape.patch_size,
        "window_size": shape.window_size,
        "out_hidden_size": shape.width,
        "fullatt_block_indexes": list(shape.full_layers),
        "initializer_range": _INIT,
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


def _rope(head: int) -> dict[str, Any]:
    """Share the head's frequencies among time, rows and columns, a quarter to time as published."""
    rows = head // 2 * 3 // 8
    sections = [head // 2 - 2 * rows, rows, rows]
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections}


def _preprocessor(shape: JudgeShape) -> dict[str, Any]:
    """Return the published preprocessor with our sizes."""
    return {
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
