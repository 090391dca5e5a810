"""What a demo model is for, said to who uses it for something else."""

from __future__ import annotations

import re
from typing import Any

from .models import FillModels
from .recipe import Recipe
from .request import FillRequest

MAX_WORDS = 3
"""Unknown words that a note quotes."""
TOO_LARGE = 2
"""Sides of a toy scene that an image may have before a note says what the model is for."""
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def describe_demo(recipe: Recipe, reason: str = "") -> str:
    """Return one sentence: what a demo model is for, and where a real one is chosen.

    Args:
        recipe: The demo model's.
        reason: Why that matters now; a part of the sentence.

    Example: ``describe_demo(models.recipe, 'this image has 768 x 512')``.
    """
    side = recipe.demo_side
    return (
        f"this is the bundled demo model, for toy scenes of {side} x {side} pixels"
        f"{', but ' * bool(reason)}{reason}; for photographs choose a real model in OneReward Load "
        "Model (its help says how)"
    )


def demo_note(request: FillRequest, models: FillModels) -> str | None:
    """Return such a sentence if a demo model gets a larger image, or words that it does not know.

    Example: ``if note := demo_note(request, models): host.notify(note)``.
    """
    if not models.recipe.demo_side:
        return None
    height, width = request.image.shape[1:3]
    reasons = []
    if max(width, height) > TOO_LARGE * models.recipe.demo_side:
        reasons.append(f"this image has {width} x {height}")
    if words := unknown_words(models.tokenizer_2, request.full_prompt()):
        reasons.append(f"it does not know {', '.join(map(repr, words[:MAX_WORDS]))}")
    return describe_demo(models.recipe, " and ".join(reasons)) if reasons else None


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """Return the words of a prompt that are no token of their own; quoted text may be spelled."""
    words = dict.fromkeys(_WORD.findall(re.sub(r'"[^"]*"', " ", prompt)))
    return [word for word in words if len(tokenizer(word, add_special_tokens=False).input_ids) > 1]
