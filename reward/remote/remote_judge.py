"""The remote judge: the question and the images to a server, the probability back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...fill.io.file_digest import fingerprint_files
from ...fill.io.json_text import quote
from ...fill.memory.components import Component
from ...fill.task import TASKS, Task
from ..cards import readings
from ..cards.card_format import CardQuestion
from ..cards.find_card import card_of, is_built_in
from ..judge import JudgeError, PairQuestion
from ..query import TEMPLATE_VERSION, Query
from .chat_client import ChatClient
from .remote_config import RemoteConfig, read_key
from .remote_questions import card_question, check_card, make_body, read_number, shown_images

KIND = "remote"
"""Marks its values among those of other judges."""
MAX_NUMBERS = 10_000
"""Answers that are kept."""
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
        self.card = card_of(config.card, [config.model])
        check_card(self.card)
        self._client = ChatClient(config, poll)
        self._has_answered = False
        self._numbers: dict[str, float] = {}

    @property
    def label(self) -> str:
        """The model's name without its owner's."""
        return f"remote:{self.config.model.strip('/').rsplit('/', 1)[-1]}"

    @property
    def identity(self) -> str:
        """A digest of server, model, limits and wording; what the server loads is not known."""
        config = self.config
        settings = (config.max_pixels, config.max_tokens, config.top_logprobs, TEMPLATE_VERSION)
        return fingerprint_files([], self.digest, self.card.to_json(), *map(str, settings))

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
        """The view that its card wants."""
        return {} if is_built_in(self.card) else {"view": self.card.view}

    @property
    def needs_source(self) -> bool:
        """Whether a question of its card shows the image before the edit."""
        return self.card.needs_source

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
        self.probabilities([PairQuestion(first, second, self._probe(), first)])

    def _probe(self) -> Query:
        """Return the first query that the card has a question for."""
        for query in (
            Query(task, d, "a red ball") for task in Task for d in TASKS[task].dimensions
        ):
            try:
                card_question(self.card, query)
            except ValueError:
                continue
            return query
        raise JudgeError(f"card {quote(self.card.name)} asks about no task; choose another card")

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
        return [_data_url(i, self.config.max_pixels, self.card.pixels) for i in images]

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return P(the first image is better), ``[len(questions)]``, float32, on the CPU.

        What was asked before is not asked again.

        Raises:
            JudgeError: The server cannot be asked, or its answer is none.
            ValueError: The key has gone, this server may not get it, or the card has no such
                question.
        """
        keys: list[list[str]] = []  # of each question: one request, or one per image
        requests: dict[str, tuple[CardQuestion, dict[str, Any]]] = {}
        for question in questions:
            query: Any = question.query
            wording = card_question(self.card, query)
            of_question = []
            for images in shown_images(self.card, wording, question):
                body = make_body(self.config, self.card, query, images)
                key = hashlib.sha256(json.dumps(body).encode()).hexdigest()
                of_question.append(key)
                if key not in self._numbers:
                    requests[key] = wording, body
            keys.append(of_question)
        numbers = self._ask(requests)
        first, second = (torch.tensor([numbers[k[i]] for k in keys]) for i in (0, -1))
        single = torch.tensor([len(k) == 2 for k in keys])
        chances = readings.preference(first, second, self.card.reading.temperature)
        return torch.where(single, chances, first).float()

    def _ask(self, requests: Mapping[str, tuple[CardQuestion, dict[str, Any]]]) -> dict[str, float]:
        """Return the numbers of all requests so far, these included."""
        replies = self._client.ask_all([body for _, body in requests.values()])
        fresh = {
            key: read_number(self.config, self.card, wording, reply)
            for (key, (wording, _)), reply in zip(requests.items(), replies, strict=True)
        }
        numbers = self._numbers | fresh
        self._numbers = numbers if len(numbers) <= MAX_NUMBERS else fresh
        self._has_answered = True
        return numbers


def _data_url(image: torch.Tensor, max_pixels: int, pixels: int) -> str:
    """Return an image ``[3, H, W]``, 0..1, as PNG in a data URL.

    Args:
        image: The image.
        max_pixels: The most that it may have.
        pixels: What a card wants it to have; 0: whatever it has.
    """
    values = (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    picture = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
    area = picture.width * picture.height
    scale = math.sqrt(min(pixels or area, max_pixels) / area)
    if scale != 1:
        size = [max(math.floor(side * scale), 1) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
