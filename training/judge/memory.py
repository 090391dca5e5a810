"""How much memory a step of judge training takes beside the weights; leans towards too much."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ...reward.vlm.memory import TEXT_TOKENS, language_tower, towers_of
from ...reward.vlm.qwen_vl import QwenJudge
from ..runs.config import OFF
from .config import JudgeTrainConfig

WIDTHS_PER_LAYER, INNER_PER_LAYER = 14, 4
"""Activations of one layer that its backward pass needs, in widths and in feed-forward widths."""


def training_bytes(
    judge: QwenJudge, config: JudgeTrainConfig, trained: Iterable[nn.Parameter]
) -> int:
    """Return the bytes of activations, gradients and optimiser state.

    Args:
        judge: The judge, loaded.
        config: Batch sizes, precision, checkpointing.
        trained: Its trained parameters; each takes a gradient and two averages in float32.
    """
    pixels_per_token = judge.patches.factor**2
    tokens = 2 * judge.patches.max_pixels // pixels_per_token + TEXT_TOKENS
    tokens *= 2 * config.micro_batch_size
    value = 2 if config.mode == "full" else judge.component.dtype.itemsize
    text = judge.model.values.get("text_config", judge.model.values)
    stack = language_tower(text, tokens, (WIDTHS_PER_LAYER, INNER_PER_LAYER))
    language = tokens * value * stack.stack
    if config.gradient_checkpointing != OFF:
        language = tokens * value * (stack.layers * stack.width + stack.layer)
    _, tower = towers_of(judge, judge.patches.max_pixels)
    patches = 2 * config.micro_batch_size * tower.tokens * value
    vision = patches * tower.layer  # nothing is kept where the vision tower does not learn
    if config.mode == "full":
        vision = patches * tower.stack
        if config.gradient_checkpointing != OFF:
            vision = patches * (tower.layers * tower.width + tower.layer)
    state = 12 * sum(p.numel() for p in trained)
    return int(language + vision + state + judge.expansion_bytes)
