"""Prompts to the two text states FLUX takes, computed once per text."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch

from ..host import Host
from ..memory.components import Component
from ..memory.plan import placed, text_bytes, weight_budget
from ..models import FillModels
from .guidance import Prompt

logger = logging.getLogger("onereward.fill")

MAX_QUOTE = 40
"""Characters of a prompt that a note quotes."""
_FOREIGN_SYNTAX = re.compile(r"\([^()]*:\s*\d+(?:\.\d+)?\s*\)|<(?:lora|lyco|embedding):[^<>]*>")
"""Weights of words and adapters, as other programs write them into prompts."""
_CHOICE = re.compile(r"\{[^{}]*\|[^{}]*\}")
"""A choice that only ComfyUI's front end makes, before it queues a job."""


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
    for char in dict.fromkeys("".join(text.split())):
        if not _is_known(models.tokenizer_2, char):
            raise ValueError(
                f"text contains {char!r}, which this model's text encoder has no token for; use "
                "other characters"
            )


def prompt_notes(models: FillModels, prompt: str) -> list[str]:
    """Return a sentence for each part of a prompt that the model reads otherwise than was meant.

    Example: ``prompt_notes(models, "a (red:1.3) cup")`` names ``(red:1.3)``.
    """
    notes = []
    tokenizer, length = models.tokenizer_2, models.recipe.max_sequence_length
    words = _CHOICE.sub(" ", _FOREIGN_SYNTAX.sub(" ", prompt))
    characters = "".join(words.split())
    lost = {char for char in set(characters) if not _is_known(tokenizer, char)}
    if lost and not models.recipe.demo_side:  # a demo model has a note of its own
        share = sum(char in lost for char in characters) / len(characters)
        example = next(char for char in characters if char in lost)
        notes.append(
            f"{share:.0%} of the prompt are characters that this model's text encoder does not "
            f"know, such as {example!r}, and are lost; write the prompt in English"
        )
    if syntax := _FOREIGN_SYNTAX.search(prompt):
        notes.append(
            f"{syntax.group()[:MAX_QUOTE]!r} counts as plain text: FLUX knows no weights of words, "
            "and adapters come from OneReward Load Adapter"
        )
    if choice := _CHOICE.search(prompt):
        notes.append(
            f"{choice.group()[:MAX_QUOTE]!r} counts as plain text: only ComfyUI's front end "
            "chooses one; in an API job or on the command line write what is meant"
        )
    ids = tokenizer(prompt).input_ids
    if len(ids) > length:
        # The last token that is read is the end mark.
        cut_text = tokenizer.decode(ids[length - 1 :], skip_special_tokens=True)
        notes.append(
            f"the prompt has {len(ids)} tokens, but the model reads only the first {length}; cut "
            f"from {cut_text[:MAX_QUOTE]!r}"
        )
    return notes


def _is_known(tokenizer: Any, char: str) -> bool:
    return tokenizer.unk_token_id not in tokenizer(char, add_special_tokens=False).input_ids


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
