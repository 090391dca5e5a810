"""A checkpoint's own words: tokenizer, chat template, and the tokens that a judge answers with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...fill.checkpoint.modules import load_tokenizer
from ...fill.io.json_text import label_of, shorten
from ...fill.io.template import render_template
from ..judge import JudgeError
from .families import TEMPLATE_FILE, read_chat_template

YES, NO = "Yes", "No"
MAX_QUESTIONS = 4096
"""Tokenised conversations that are kept; training asks the same few again and again."""
IMAGE = "\0image"
"""Stands for an image in the content of a message."""
THINKING, NO_THOUGHT = "<think>", "\n\n</think>\n\n"
"""Begins the answer of a model that reasons first, and what ends it before it began."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is said to a model before it answers.

    Example: ``Conversation((IMAGE, IMAGE, 'Is the first better?'))``.
    """

    content: tuple[str, ...]
    """The user's message: texts, and ``IMAGE`` in the place of every image."""
    system: str = ""
    """The system's message; empty: none, and the template may have its own."""
    answer_start: str = ""
    """What the answer begins with, so that the next token is the one that counts."""
    reasons: bool = False
    """Whether a model that can reason before it answers does so."""


def about_pair(question: str) -> Conversation:
    """Return the built-in form of a question about two images: both, then the text."""
    return Conversation((IMAGE, IMAGE, question))


class Chat:
    """Turns conversations into token ids. Example: ``chat.ids(about_pair('Yes or No?'))``.

    Args:
        folder: Of tokenizer and chat template.
        image_token: Stands for an image in token ids.
    """

    def __init__(self, folder: Path, image_token: int) -> None:
        self._folder, self._image_token = folder, image_token
        self._known: dict[Conversation, list[int]] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's own tokenizer."""
        return load_tokenizer(self._folder)

    @cached_property
    def template(self) -> str | None:
        """The chat template for images; None: the tokenizer's own."""
        return read_chat_template(self._folder)

    @cached_property
    def answer_ids(self) -> tuple[int, int]:
        """Token ids of "Yes" and "No".

        Raises:
            JudgeError: Either takes more than one token, or the template has no place for images.
        """
        ids = (self.single_token(YES), self.single_token(NO))
        self.ids(about_pair("Yes or No?"))
        return ids

    def single_token(self, word: str) -> int:
        """Return the id of a word that is one token; JudgeError if it is more."""
        ids = self.tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            raise JudgeError(
                f"the tokenizer in {label_of(self._folder)} has no single tokens for {YES} and "
                f"{NO}, which a judge needs; choose an original Qwen-VL tokenizer"
                if word in (YES, NO)
                else f"the tokenizer in {label_of(self._folder)} has no single token for "
                f"{word[:20]!r}, which this judge answers with; choose the original tokenizer"
            )
        return ids[0]

    def ids(self, conversation: Conversation) -> list[int]:
        """Return a conversation in the chat template; one image token stands for each image.

        Raises:
            JudgeError: The template has no place for the images.
        """
        cached = self._known.get(conversation)
        if cached is not None:
            return cached
        text = self._fill_template(conversation)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if ids.count(self._image_token) != conversation.content.count(IMAGE):
            raise JudgeError(self._no_images())
        if len(self._known) >= MAX_QUESTIONS:
            self._known.clear()
        self._known[conversation] = ids
        return ids

    def _fill_template(self, conversation: Conversation) -> str:
        content = [
            {"type": "image"}
            if part == IMAGE
            else {"type": "text", "text": self._as_plain_text(part)}
            for part in conversation.content
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if conversation.system:
            system = {"type": "text", "text": self._as_plain_text(conversation.system)}
            messages.insert(0, {"role": "system", "content": [system]})
        variables = self.tokenizer.special_tokens_map | {
            **{"messages": messages, "tools": None, "documents": None},
            "add_generation_prompt": True,
            "enable_thinking": conversation.reasons,
        }
        try:
            template = self.template or self.tokenizer.get_chat_template()
            text = render_template(template, **variables)
        except ValueError as error:
            raise JudgeError(shorten(f"{self._no_images()} ({error})")) from error
        if not conversation.reasons and text.rstrip().endswith(THINKING):
            text = text.rstrip() + NO_THOUGHT
        return text + conversation.answer_start

    def _as_plain_text(self, text: str) -> str:
        """Take control tokens in a user's prompt apart: they are no words of the model."""
        for token in self.tokenizer.get_added_vocab():
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _no_images(self) -> str:
        return (
            f"the chat template in {label_of(self._folder)} has no place for two images; download "
            f"{TEMPLATE_FILE} of the original Qwen-VL checkpoint into that folder"
        )
