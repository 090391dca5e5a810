"""From what a model says to a preference: pure functions of logits, states and text.

Scores of single images become a preference as in the model of Bradley and Terry (1952):
``P(a > b) = sigmoid((s_a - s_b) / temperature)``. Reward models are trained with that likelihood,
or with a score whose difference means the same up to a scale, which is the card's temperature.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ..judge import JudgeError


def pair_log_odds(logits: Tensor, first: Sequence[int], second: Sequence[int]) -> Tensor:
    """Return log(P(first) / P(second)), ``[N]``, the spellings of each side together.

    Example: ``pair_log_odds(logits, [yes], [no]).sigmoid()``.

    Args:
        logits: ``[N, vocabulary]``.
        first: Token ids of the spellings of one answer.
        second: Those of the other one.
    """
    return logits[:, list(first)].logsumexp(-1) - logits[:, list(second)].logsumexp(-1)


def token_probability(logits: Tensor, words: Sequence[int]) -> Tensor:
    """Return P(any of some tokens) under the full vocabulary, ``[N]``; logits as above."""
    return (logits[:, list(words)].logsumexp(-1) - logits.logsumexp(-1)).exp()


def expected_digit(logits: Tensor, digits: Sequence[int], low: int) -> Tensor:
    """Return the expected value of the next token among digits, ``[N]``.

    Args:
        logits: ``[N, vocabulary]``.
        digits: Token ids of the digits from ``low`` on.
        low: The first one's value.
    """
    share = logits[:, list(digits)].float().softmax(-1)  # [N, digits]
    values = torch.arange(low, low + len(digits), device=logits.device, dtype=share.dtype)
    return share @ values


def head_score(states: Tensor, layers: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Return the first output of a reward head, ``[N]``: linear layers with ReLU between.

    Args:
        states: ``[N, width]``.
        layers: Weight ``[out, in]`` and bias ``[out]`` of each layer.
    """
    x = states.float()
    for index, (weight, bias) in enumerate(layers):
        x = torch.nn.functional.linear(x if index == 0 else x.relu(), weight, bias)
    return x[:, 0]


def preference(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return P(the first is better) of two scores ``[N]``; see the module."""
    return ((first - second) / temperature).sigmoid()


def read_score(text: str, pattern: str, low: float, high: float) -> float:
    r"""Return the score in an answer; JudgeError if there is none within its scale.

    Example: ``read_score('"score": [20, 18]', r'score": \[(\d+)', 0, 25) == 20.0``.
    """
    word = _answer(text, pattern)
    try:
        score = float(word)
    except ValueError as error:
        raise JudgeError(f"the judge wrote {word[:40]!r} in the place of a score") from error
    if not low <= score <= high:
        raise JudgeError(
            f"the judge gave the score {score:g}, but its card says {low:g} to {high:g}"
        )
    return score


def read_choice(text: str, pattern: str, first: Sequence[str], second: Sequence[str]) -> float:
    """Return 1 or 0: whether an answer names the first; JudgeError if it names neither."""
    word = _answer(text, pattern).strip()
    for value, words in ((1.0, first), (0.0, second)):
        if word in [w.strip() for w in words]:
            return value
    raise JudgeError(
        f"the judge answered {word[:40]!r}, but its card knows {first[0]!r} and {second[0]!r}"
    )


def _answer(text: str, pattern: str) -> str:
    """Return the first group of a pattern's last match: reasoning comes before the verdict."""
    matches = list(re.finditer(pattern, text))
    if not matches:
        start = " ".join(text.split())[-80:]
        raise JudgeError(
            f"the judge's answer has no score or verdict that its card looks for: ...{start!r}; "
            "raise max_new_tokens in its card, or use another judge"
            if start
            else "the judge gave an empty answer; its card may be for another checkpoint"
        )
    return matches[-1][1] or ""
