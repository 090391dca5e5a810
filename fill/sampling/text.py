"""Prompts to the two text states FLUX takes, computed once per text."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from ..host import Host
from ..memory.components import Component
from ..memory.plan import placed, text_bytes, weight_budget
from ..models import FillModels
from .guidance import Prompt

logger = logging.getLogger("onereward.fill")


def encode_prompts(models: FillModels, texts: Sequence[str], host: Host) -> list[Prompt]:
    """Return the encoded prompts, on the CPU; only texts that are new cost anything.

    The encoders are on the device one after the other and never beside the transformer.

    Source: diffusers, ``FluxFillPipeline.encode_prompt``.
    """
    length = models.recipe.max_sequence_length
    states = {text: models.prompts.get((text, length)) for text in texts}
    new = [text for text, cached in states.items() if cached is None]
    if new:
        encode = models.encode_texts or (lambda texts: _encode_texts(models, texts, host))
        for text, encoded in zip(new, encode(new), strict=True):
            states[text] = models.prompts.put((text, length), encoded)
        logger.debug("encoded %d prompts", len(new))
    pairs = [pair for text in texts if (pair := states[text]) is not None]
    return [Prompt(sequence=sequence, pooled_embeds=clip) for sequence, clip in pairs]


def _encode_texts(
    models: FillModels, texts: Sequence[str], host: Host
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    clip, t5 = models.text_encoder, models.text_encoder_2
    clip_states = _encode(clip, models, _clip_ids(models, texts), "pooler_output", host)
    t5_ids = _tokenize(models.tokenizer_2, texts, models.recipe.max_sequence_length)
    sequences = _encode(t5, models, t5_ids, "last_hidden_state", host)
    return list(zip(sequences, clip_states, strict=True))


def check_characters(models: FillModels, text: str) -> None:
    """Raise ValueError if the model's T5 tokenizer has no token for a character of the text."""
    tokenizer = models.tokenizer_2
    unknown = tokenizer.unk_token_id
    for char in dict.fromkeys("".join(text.split())):
        if unknown in tokenizer(char, add_special_tokens=False).input_ids:
            raise ValueError(
                f"text contains {char!r}, which this model's text encoder has no token for; use "
                "other characters"
            )


def truncation_note(models: FillModels, text: str) -> str | None:
    """Return a sentence for the user if the prompt is longer than the model reads."""
    length = models.recipe.max_sequence_length
    tokens = len(models.tokenizer_2(text).input_ids)
    if tokens <= length:
        return None
    return f"the prompt has {tokens} tokens, but the model reads only the first {length}"


def _clip_ids(models: FillModels, texts: Sequence[str]) -> torch.Tensor:
    # A tokenizer from elsewhere may allow more tokens than this encoder has positions for.
    length = min(models.tokenizer.model_max_length, models.max_clip_tokens)
    return _tokenize(models.tokenizer, texts, length)


def _tokenize(tokenizer: Any, texts: Sequence[str], length: int) -> torch.Tensor:
    return tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def _encode(
    component: Component, models: FillModels, ids: torch.Tensor, output: str, host: Host
) -> torch.Tensor:
    host.check_cancelled()
    room = text_bytes(component, ids.numel())
    with (
        placed(component, host, room, weight_budget(component, models, host, room)),
        torch.no_grad(),
    ):
        return getattr(component.module(ids.to(host.device)), output).cpu()
