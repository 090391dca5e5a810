"""A checkpoint's own words: tokenizer, chat template, and the tokens that a judge answers with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ...fill.checkpoint.modules import load_tokenizer
from ...fill.io.files import read_json, read_text
from ..judge import JudgeError

YES, NO = "Yes", "No"
MAX_QUESTIONS = 4096
"""Tokenised questions that are kept; training asks the same few again and again."""
_TEMPLATE, _PROCESSORS_TEMPLATE = "chat_template.jinja", "chat_template.json"
_IMAGES = 2


class Chat:
    """Turns questions about two images into token ids. Example: ``chat.ids('Yes or No?')``."""

    def __init__(self, folder: Path, image_token: int) -> None:
        self._folder, self._image_token = folder, image_token
        self._questions: dict[str, list[int]] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's own tokenizer."""
        return load_tokenizer(self._folder)

    @cached_property
    def template(self) -> str | None:
        """The chat template for images; None: the tokenizer's own.

        The published folders have it in a file for processors, while their tokenizer brings one
        that is for text alone.
        """
        if (self._folder / _TEMPLATE).is_file():
            return read_text(self._folder / _TEMPLATE)
        if (self._folder / _PROCESSORS_TEMPLATE).is_file():
            return read_json(self._folder / _PROCESSORS_TEMPLATE).get("chat_template")
        return None

    @cached_property
    def answer_ids(self) -> tuple[int, int]:
        """Token ids of "Yes" and "No".

        Raises:
            JudgeError: Either takes more than one token, or the template has no place for two
                images.
        """
        ids = [self.tokenizer.encode(word, add_special_tokens=False) for word in (YES, NO)]
        if any(len(i) != 1 for i in ids) or ids[0] == ids[1]:
            raise JudgeError(
                f"the tokenizer in {self._folder} has no single tokens for Yes and No, which a "
                "judge needs; choose an original Qwen-VL tokenizer"
            )
        self.ids("Yes or No?")
        return ids[0][0], ids[1][0]

    def ids(self, question: str) -> list[int]:
        """Return a question in the chat template; one image token stands for each image.

        Raises:
            JudgeError: The template has no place for two images.
        """
        cached = self._questions.get(question)
        if cached is not None:
            return cached
        ids = self.tokenizer.encode(self._fill_template(question), add_special_tokens=False)
        if ids.count(self._image_token) != _IMAGES:
            raise JudgeError(self._no_images())
        if len(self._questions) >= MAX_QUESTIONS:
            self._questions.clear()
        self._questions[question] = ids
        return ids

    def _fill_template(self, question: str) -> str:
        from jinja2 import TemplateError

        content = [{"type": "image"}] * _IMAGES
        content.append({"type": "text", "text": self._as_plain_text(question)})
        try:
            return self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise JudgeError(f"{self._no_images()} ({error})") from error

    def _as_plain_text(self, question: str) -> str:
        """Take control tokens in a user's prompt apart: they are no words of the model."""
        for token in self.tokenizer.get_added_vocab():
            question = question.replace(token, f"{token[0]} {token[1:]}")
        return question

    def _no_images(self) -> str:
        return (
            f"the chat template in {self._folder} has no place for two images; download "
            f"{_PROCESSORS_TEMPLATE} of the original Qwen-VL checkpoint into that folder"
        )
