"""What a server is sent about a question, as a card says, and what number its answer is.

Server and card divide the work: the server has tokenizer and chat template, the card the words.
Reward heads are no part of the API. Digits are weighed among the likeliest tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...fill.io.json_text import quote
from ..cards import readings
from ..cards.card_format import (
    DIGITS,
    GENERATE,
    HEAD,
    PAIR,
    SOURCE_PAIR,
    CardQuestion,
    JudgeCard,
)
from ..judge import JudgeError, PairQuestion
from ..query import MAX_PROMPT, Query
from .remote_config import RemoteConfig
from .top_tokens import END_OF_REASONING, TopTokens, answer_place

_LEAST_SHARE = 1e-9
"""Of a word beside another one, for finite odds."""


def check_card(card: JudgeCard) -> None:
    """Raise JudgeError for a card that no server can be asked by."""
    if card.reading.kind == HEAD:
        raise JudgeError(
            f"card {quote(card.name)} reads reward heads, which servers do not give; load the "
            "checkpoint with OneReward Load Judge, or choose another card"
        )


def is_pair(card: JudgeCard, question: CardQuestion) -> bool:
    """Tell whether a question shows both images, not one alone."""
    return card.images_of(question) in (PAIR, SOURCE_PAIR)


def card_question(card: JudgeCard, query: Query) -> CardQuestion:
    """Return what a card asks about a query; ValueError if nothing."""
    return card.question_for(query.task, query.dimension)


def shown_images(card: JudgeCard, question: CardQuestion, pair: PairQuestion) -> list[list[str]]:
    """Return the images of each request that a question takes: one, or one per image.

    Raises:
        ValueError: The image before the edit is needed and not there.
    """
    before = []
    if card.images_of(question).startswith("source"):
        if pair.source is None:
            raise ValueError("this judge needs the image before the edit; connect the source")
        before = [pair.source]
    if is_pair(card, question):
        return [[*before, pair.first, pair.second]]
    return [[*before, pair.first], [*before, pair.second]]


def make_body(
    config: RemoteConfig, card: JudgeCard, query: Query, images: Sequence[str]
) -> dict[str, Any]:
    """Return the request about images, which are data URLs in their order."""
    values = {
        "prompt": query.prompt.strip()[:MAX_PROMPT],
        "instruction": query.instruction(),
        "task": query.task.value,
        "dimension": query.dimension_text,
        "question": query.question(),
    }
    # A model's control tokens in a user's prompt are no words of the model.
    values = {name: value.replace("<|", "< |") for name, value in values.items()}
    first, *parts = card.parts_of(card_question(card, query), values)
    content: list[dict[str, Any]] = [{"type": "text", "text": first}] if first else []
    for url, part in zip(images, parts, strict=True):
        content.append({"type": "image_url", "image_url": {"url": url}})
        content += [{"type": "text", "text": part}] if part else []
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if card.system:
        messages.insert(0, {"role": "system", "content": card.system})
    body: dict[str, Any] = {"model": config.model, "messages": messages, "stream": False}
    if card.answer_start:
        # Of vLLM and SGLang: the model goes on with the last message.
        messages.append({"role": "assistant", "content": card.answer_start})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if card.reading.kind == GENERATE:
        return body | {"max_tokens": _max_tokens(config, card), "temperature": 0}
    return body | {
        "max_tokens": config.max_tokens,
        # Some servers divide by it before they tell the log-probabilities.
        "temperature": 1 if config.max_tokens == 1 else 0,
        "logprobs": True,
        "top_logprobs": config.top_logprobs,
    }


def read_number(
    config: RemoteConfig, card: JudgeCard, question: CardQuestion, reply: Mapping[str, Any]
) -> float:
    """Return P(first) of a pair, or the score of one image.

    Raises:
        JudgeError: The answer is none.
    """
    reading, of_pair = card.reading, is_pair(card, question)
    if reading.kind == GENERATE:
        text = card.answer_start + _written(reply)
        if of_pair:
            return readings.read_choice(text, question.pattern, reading.first, reading.second)
        return readings.read_score(text, question.pattern, reading.low, reading.high)
    if reading.kind == DIGITS:
        digits = range(int(reading.low), int(reading.high) + 1)
        place = answer_place(reply, list(map(str, digits)), config.max_tokens)
        return expected_digit(place, digits)
    words = (*reading.first, *reading.second)
    place = answer_place(reply, words, config.max_tokens)
    share = place.between(reading.first, reading.second)
    if of_pair:
        return share
    share = min(max(share, _LEAST_SHARE), 1 - _LEAST_SHARE)
    return math.log(share / (1 - share))


def expected_digit(place: TopTokens, digits: Sequence[int]) -> float:
    """Return the expected value among the digits that are there; JudgeError if none is."""
    shares = {digit: place.probability([str(digit)]) for digit in digits}
    total = sum(shares.values())
    if total == 0:
        raise JudgeError(
            f"the judge's server answers no digit of {digits[0]} to {digits[-1]}; its card may be "
            "for another model"
        )
    return sum(digit * share for digit, share in shares.items()) / total


def _max_tokens(config: RemoteConfig, card: JudgeCard) -> int:
    return max(config.max_tokens, card.reading.max_new_tokens)


def _written(reply: Mapping[str, Any]) -> str:
    """Return the text of an answer, after its reasoning; JudgeError if there is none."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise JudgeError(
            "the judge's server answers without a text; choose an OpenAI-compatible server, or "
            "raise max_tokens for a model that reasons first"
        )
    return text.rpartition(END_OF_REASONING)[2]
