"""The remote judge: the question and the images to a server, the probability back."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...fill.io.file_digest import fingerprint_files
from ...fill.memory.components import Component
from ..judge import PairQuestion, Question
from ..query import TEMPLATE_VERSION
from .chat_client import ChatClient
from .remote_config import RemoteConfig, read_key
from .top_tokens import answer_place

KIND = "remote"
"""Marks its values among those of other judges."""
YES, NO = ("Yes",), ("No",)
_PROBE = 64
"""Side of the grey images of the first question, in pixels."""


class RemoteJudge:
    """A vision-language model on a server; no gradient, no weight on this computer.

    The server is asked for one token and its likeliest alternatives, as :mod:`.top_tokens` says.

    Example: ``RemoteJudge(RemoteConfig(model="Qwen/Qwen3-VL-8B-Instruct")).check()``.

    Args:
        config: Which server, and how.
        poll: Called at least every tenth of a second while waiting; raises to cancel.

    Raises:
        ValueError: The key is missing, or this server may not get it.
    """

    def __init__(self, config: RemoteConfig, poll: Callable[[], None] = lambda: None) -> None:
        read_key(config)
        self.config = config
        self._client = ChatClient(config, poll)
        self._has_answered = False

    @property
    def label(self) -> str:
        """The model's name without its owner's."""
        return f"remote:{self.config.model.strip('/').rsplit('/', 1)[-1]}"

    @property
    def identity(self) -> str:
        """A digest of server, model, limits and wording; what the server loads is not known."""
        config = self.config
        settings = (config.max_pixels, config.max_tokens, config.top_logprobs, TEMPLATE_VERSION)
        return fingerprint_files([], self.digest, *map(str, settings))

    @property
    def digest(self) -> str:
        """A digest of server and model."""
        return fingerprint_files([], KIND, self.config.base_url, self.config.model)

    @property
    def folder(self) -> Path | None:
        """None: nowhere."""
        return None

    @property
    def notes(self) -> dict[str, Any]:
        """Empty: it was trained elsewhere."""
        return {}

    @property
    def needs_source(self) -> bool:
        """False: the question is about two images."""
        return False

    @property
    def is_differentiable(self) -> bool:
        """False."""
        return False

    @property
    def components(self) -> tuple[Component, ...]:
        """None: it runs elsewhere."""
        return ()

    def to_values(self) -> dict[str, Any]:
        """Return kind and config; of the key only the variable's name."""
        return {"kind": KIND, **asdict(self.config)}

    def check(self) -> None:
        """Ask about two grey images, once; JudgeError says why the server cannot judge."""
        if self._has_answered:
            return
        greys = [torch.full((3, _PROBE, _PROBE), level) for level in (0.25, 0.75)]
        first, second = self.encode_images(greys)
        self.probabilities([PairQuestion(first, second, _Probe())])

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        """Return 0."""
        del pixels, rows
        return 0

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        """Return 0; it cannot train."""
        del pixels, rows, recompute
        return 0

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[str]:
        """Return images ``[3, H, W]``, 0..1, as PNG in a data URL, shrunk to ``max_pixels``."""
        return [_data_url(image, self.config.max_pixels) for image in images]

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return P(Yes) per question, ``[len(questions)]``, float32, on the CPU.

        Raises:
            JudgeError: The server cannot be asked, or its answer is none.
            ValueError: The key has gone, or this server may not get it.
        """
        replies = self._client.ask_all([self._body(question) for question in questions])
        words = (*YES, *NO)
        places = [answer_place(reply, words, self.config.max_tokens) for reply in replies]
        self._has_answered = True
        return torch.tensor([place.between(YES, NO) for place in places], dtype=torch.float32)

    def _body(self, question: PairQuestion) -> dict[str, Any]:
        urls = (question.first, question.second)
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": url}} for url in urls
        ]
        # A model's control tokens in a user's prompt are no words of the model.
        text = question.query.question().replace("<|", "< |")
        content.append({"type": "text", "text": text})
        return {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.config.max_tokens,
            # Some servers divide by it before they tell the log-probabilities.
            "temperature": 1 if self.config.max_tokens == 1 else 0,
            "logprobs": True,
            "top_logprobs": self.config.top_logprobs,
            "stream": False,
        }


class _Probe(Question):
    """Any question; the answer does not matter."""

    def question(self) -> str:
        """Return its text."""
        return "Is the first image better than the second image? Answer Yes or No."


def _data_url(image: torch.Tensor, max_pixels: int) -> str:
    """Return an image ``[3, H, W]``, 0..1, as PNG in a data URL."""
    values = (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    picture = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
    scale = math.sqrt(max_pixels / (picture.width * picture.height))
    if scale < 1:
        size = [max(math.floor(side * scale), 1) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
