"""Prompts through ComfyUI's own CLIP, encoded as our sampler encodes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...fill.recipe import Recipe

T5_KEY = "t5xxl"
"""ComfyUI's name for the tokens of FLUX's T5."""


def check_clip(tokens: Mapping[str, Any]) -> None:
    """Raise ValueError if the text encoders that made the tokens are not those of FLUX."""
    if T5_KEY not in tokens:
        raise ValueError(
            f"clip has tokens for {', '.join(tokens)}, but FLUX needs CLIP-L and T5; load clip_l "
            "and t5xxl with DualCLIPLoader, type flux"
        )


def encode_text(clip: Any, text: str, recipe: Recipe) -> list[Any]:
    """Return the conditioning of a prompt: as long as the model was trained, without weights.

    Raises:
        ValueError: The text encoders are not those of FLUX.
    """
    clip = clip.clone()
    clip.set_tokenizer_option(f"{T5_KEY}_min_length", recipe.max_sequence_length)
    tokens = clip.tokenize(text, disable_weights=True)
    check_clip(tokens)
    return clip.encode_from_tokens_scheduled(tokens)
