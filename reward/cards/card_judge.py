"""A judge that is asked and read as its card says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...fill.io.files import TensorInfo, weight_files
from ...fill.io.json_text import label_of, quote, read_json, shorten
from ...fill.task import Dimension, Task
from ..judge import JudgeConfig, JudgeError, PairQuestion, Question, judge_folder
from ..query import MAX_PROMPT
from ..vlm.chat import IMAGE, Conversation
from ..vlm.families import read_model_config
from ..vlm.memory import TEXT_TOKENS
from ..vlm.model import ChatRow, EncodedImage
from ..vlm.qwen_vl import FolderJudge, QwenJudge
from . import readings
from .card_format import (
    DIGITS,
    FIELDS,
    GENERATE,
    HEAD,
    PAIR,
    SOURCE_PAIR,
    TOKEN_PAIR,
    CardQuestion,
    JudgeCard,
)
from .find_card import find_card, is_built_in

Poll = Callable[[], None]
Ask = tuple[CardQuestion, ChatRow]
Layers = list[tuple[Tensor, Tensor | None]]
MAX_ANSWERS = 1024
"""Written answers that are kept."""
_END_OF_TURN = "<|im_end|>"
_EMBEDDINGS = "embed_tokens.weight"
_EXTRA_TEXT = 1500
"""Tokens of a long question beyond those of the built-in one."""


class EditQuestion(Question, Protocol):
    """What a card needs to know of a question. Example: a :class:`~..query.Query` is one."""

    task: Task
    dimension: Dimension
    prompt: str

    def instruction(self) -> str:
        """Return the edit as an order."""
        ...

    @property
    def dimension_text(self) -> str:
        """The dimension in words."""
        ...


def local_judge(
    config: JudgeConfig, device: torch.device, poll: Poll = lambda: None
) -> QwenJudge | CardJudge:
    """Return the judge of a folder, asked as its card says.

    Example: ``local_judge(JudgeConfig(folder=folder), device, host.check_cancelled).label``.

    Args:
        config: Which folder, and how.
        device: Where it will run.
        poll: Called before every token that a judge writes; raises to cancel.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Pickled or damaged weights, or a card that cannot be used.
        JudgeError: The checkpoint cannot judge, or not with this card.
    """
    folder = judge_folder(config.folder)
    card = find_card(config, folder, read_model_config(folder)["model_type"])
    if is_built_in(card):
        return QwenJudge(config, device)
    judge = CardJudge(config, device, card, poll)
    judge.check()
    return judge


class CardJudge(FolderJudge):
    """A checkpoint with a card. Example: ``CardJudge(config, device, card).probabilities([...])``.

    Args:
        config: Folder, precision, adapter and the like.
        device: Where it will run.
        card: How it is asked and read.
        poll: As for :func:`local_judge`, which says what is raised.
    """

    def __init__(
        self, config: JudgeConfig, device: torch.device, card: JudgeCard, poll: Poll = lambda: None
    ) -> None:
        super().__init__(config, device, tuple(f"{head}." for head in card.heads))
        self.card, self._poll = card, poll
        self.wording = card.to_json()
        self.model.has_grid_positions = card.image_positions == "grid"
        if card.pixels:
            sizes = {"min_pixels": card.pixels, "max_pixels": card.pixels}
            self.model.patches = self.patches = replace(self.patches, **sizes)
        text = self.model.values.get("text_config", self.model.values)
        for head in card.heads:
            _check_head(self._folder, self.model.tensors, head, text["hidden_size"], card)
        self._heads: dict[tuple[str, torch.device], Layers] = {}
        self._answers: dict[Any, str] = {}

    @property
    def notes(self) -> dict[str, Any]:
        """The view that its card wants."""
        return {"view": self.card.view}

    @property
    def needs_source(self) -> bool:
        """Whether a question of its card shows the image before the edit."""
        return self.card.needs_source

    @property
    def is_differentiable(self) -> bool:
        """Whether its card reads numbers, and no text that it writes."""
        return self.card.is_differentiable

    def check(self) -> None:
        """Raise JudgeError if the tokenizer lacks what the card reads, or a place for images."""
        values: dict[str, str] = dict.fromkeys(FIELDS, "a")
        for question in self.card.questions.values():
            self.chat.ids(self._conversation(question, values))
        _ = self._words, self._stop
        if self.card.reading.token:
            _ = self._token_id

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        """Return the activations of judging without gradient, in bytes; leans towards too much."""
        return super().working_bytes(pixels, rows * self._scale(pixels))

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        """Return the activations of judging with gradient, in bytes."""
        return super().training_bytes(pixels, rows * self._scale(pixels), recompute)

    def probabilities(self, questions: Sequence[PairQuestion]) -> Tensor:
        """Return P(the first image is better), ``[len(questions)]``, float32.

        What is asked twice is computed once. Differentiable unless the card generates.

        Raises:
            JudgeError: An answer that was written has nothing that the card looks for.
        """
        asks: list[Ask] = []
        places: list[tuple[int, ...]] = []  # of each question: one ask, or one per image
        index: dict[Any, int] = {}
        for first, second, query, source in questions:
            question, values = self._fill(query)
            ids = self._ids(question, values)
            of_question = []
            for images in self._shown(question, first, second, source):
                key = (tuple(ids), question.pattern, question.head, *map(id, images))
                if key not in index:
                    index[key] = len(asks)
                    asks.append((question, ChatRow(ids, images)))
                of_question.append(index[key])
            places.append(tuple(of_question))
        numbers = self._read(asks)  # [asks]: P for pairs, scores for single images
        device = numbers.device
        a = numbers[torch.tensor([place[0] for place in places], device=device)]
        b = numbers[torch.tensor([place[-1] for place in places], device=device)]
        is_pair = torch.tensor([len(place) == 1 for place in places], device=device)
        return torch.where(is_pair, a, readings.preference(a, b, self.card.reading.temperature))

    def _read(self, asks: Sequence[Ask]) -> Tensor:
        """Return a number per ask: P(first) of a pair, a score of one image, ``[len(asks)]``."""
        reading = self.card.reading
        if reading.kind == GENERATE:
            return torch.tensor(self._written(asks), device=asks[0][1].images[0].tokens.device)
        rows = [row for _, row in asks]
        if reading.kind == HEAD:
            states = self.model.last_states(rows)
            scores = [
                readings.head_score(state[None], self._layers(question.head, state.device))
                for state, (question, _) in zip(states, asks, strict=True)
            ]
            return torch.cat(scores)
        logits, words = self.model.last_logits(rows), self._words
        if reading.kind == DIGITS:
            return readings.expected_digit(logits, words[0], int(reading.low))
        odds = readings.pair_log_odds(logits, *words)
        shares = odds.sigmoid()
        if reading.whole_vocabulary:
            shares = readings.token_probability(logits, words[0])
        is_pair = [self._is_pair(question) for question, _ in asks]
        return torch.where(torch.tensor(is_pair, device=odds.device), shares, odds)

    def _written(self, asks: Sequence[Ask]) -> list[float]:
        """Return what was read of every answer."""
        reading, numbers = self.card.reading, []
        for question, row in asks:
            text = self.card.answer_start + self._answer(row)
            if self._is_pair(question):
                words = reading.first, reading.second
                numbers.append(readings.read_choice(text, question.pattern, *words))
            else:
                scale = reading.low, reading.high
                numbers.append(readings.read_score(text, question.pattern, *scale))
        return numbers

    def _answer(self, row: ChatRow) -> str:
        """Return what the model writes; a ranking asks about the same images again and again."""
        key = (tuple(row.ids), *(_fingerprint(image) for image in row.images))
        if key not in self._answers:
            limit = self.card.reading.max_new_tokens
            ids = self.model.generate(row, limit, self._stop, self._poll)
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            self._answers[key] = self.chat.tokenizer.decode(ids, skip_special_tokens=True)
        return self._answers[key]

    def _fill(self, query: Question) -> tuple[CardQuestion, dict[str, str]]:
        """Return what the card asks about a query, and what goes into its fields."""
        edit: Any = query
        values = {
            "prompt": edit.prompt.strip()[:MAX_PROMPT],
            "instruction": edit.instruction(),
            "task": edit.task.value,
            "dimension": edit.dimension_text,
            "question": query.question(),
        }
        return self.card.question_for(edit.task, edit.dimension), values

    def _conversation(self, question: CardQuestion, values: Mapping[str, str]) -> Conversation:
        start, *following = self.card.parts_of(question, values)
        content = [start]
        for part in following:
            content += [IMAGE, part]
        return Conversation(
            content=tuple(part for part in content if part),
            system=self.card.system,
            answer_start=self.card.answer_start,
            reasons=self.card.reading.reasons,
        )

    def _ids(self, question: CardQuestion, values: Mapping[str, str]) -> list[int]:
        """Return token ids up to where the answer is read."""
        ids = self.chat.ids(self._conversation(question, values))
        if not self.card.reading.token:
            return ids
        # The token's state is read, so what would follow it in the message need not be computed.
        ends = [place for place, token in enumerate(ids) if token in self._stop]
        return [*ids[: ends[-1] if ends else None], self._token_id]

    def _shown(
        self, question: CardQuestion, first: EncodedImage, second: EncodedImage, source: Any
    ) -> list[tuple[EncodedImage, ...]]:
        """Return the images of each row that a question takes: one, or one per candidate."""
        images = self.card.images_of(question)
        before = (source,) if images.startswith("source") else ()
        if before and source is None:
            raise ValueError("this judge needs the image before the edit; connect the source")
        if self._is_pair(question):
            return [(*before, first, second)]
        return [(*before, first), (*before, second)]

    def _is_pair(self, question: CardQuestion) -> bool:
        return self.card.images_of(question) in (PAIR, SOURCE_PAIR)

    def _scale(self, pixels: int) -> int:
        """Return how many times the rows of the built-in question a card's may take."""
        shown_pixels = min(max(pixels, self.patches.min_pixels), self.patches.max_pixels)
        return 2 + _EXTRA_TEXT // (2 * shown_pixels // self.patches.factor**2 + TEXT_TOKENS)

    @cached_property
    def _words(self) -> tuple[list[int], list[int]]:
        """Token ids of both answers, or of the digits; JudgeError if one is more than one token."""
        reading = self.card.reading
        if reading.kind == DIGITS:
            digits = range(int(reading.low), int(reading.high) + 1)
            return [self.chat.single_token(str(digit)) for digit in digits], []
        if reading.kind != TOKEN_PAIR:
            return [], []
        first, second = (
            list(dict.fromkeys(self.chat.single_token(word) for word in words))
            for words in (reading.first, reading.second)
        )
        return first, second

    @cached_property
    def _stop(self) -> set[int]:
        """Tokens that end an answer."""
        path = self._folder / "generation_config.json"
        ends = read_json(path).get("eos_token_id", []) if path.is_file() else []
        ends = ends if isinstance(ends, list) else [ends]
        tokenizer = self.chat.tokenizer
        turn = tokenizer.get_added_vocab().get(_END_OF_TURN)
        return {tokenizer.eos_token_id, turn, *ends} - {None}

    @cached_property
    def _token_id(self) -> int:
        """The token whose state is scored; where the tokenizer lacks it, the next new one."""
        tokenizer, word = self.chat.tokenizer, self.card.reading.token
        vocabulary = tokenizer.get_vocab()
        token = vocabulary.get(word, max(vocabulary.values()) + 1)
        size = next(
            (t.shape[0] for n, t in self.model.tensors.items() if n.endswith(_EMBEDDINGS)), 0
        )
        if token >= size:
            raise JudgeError(
                f"{label_of(self._folder)} has no embedding for {word}, after which card "
                f"{quote(self.card.name)} reads the score; take the weights it is for"
            )
        return token

    def _layers(self, head: str, device: torch.device) -> Layers:
        """Return the layers of a head in float32, read once for each device."""
        key = (head, device)
        if key not in self._heads:
            names = _layer_names(self.model.tensors, head)
            values = _read_tensors(self._folder, [n for pair in names for n in pair if n], device)
            self._heads[key] = [(values[w], values[b] if b else None) for w, b in names]
        return self._heads[key]


def _fingerprint(image: EncodedImage) -> bytes:
    values = image.tokens.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=16).digest()


def _layer_names(tensors: Mapping[str, Any], head: str) -> list[tuple[str, str]]:
    """Return the names of weight and bias of every layer of a head; "" for no bias."""
    pattern = re.compile(re.escape(head) + r"\.(?:(\d+)\.)?weight")
    matches = [match for name in tensors if (match := pattern.fullmatch(name))]
    matches.sort(key=lambda match: int(match[1] or 0))
    names = [match[0] for match in matches]
    biases = [name.removesuffix("weight") + "bias" for name in names]
    return [(n, b if b in tensors else "") for n, b in zip(names, biases, strict=True)]


def _check_head(
    folder: Path, tensors: Mapping[str, TensorInfo], head: str, width: int, card: JudgeCard
) -> None:
    """Raise JudgeError if a head is not there, or its layers do not fit the model."""
    names = _layer_names(tensors, head)
    where = f"{label_of(folder)}, which card {quote(card.name)} reads,"
    if not names:
        raise JudgeError(shorten(f"{where} has no weights {head}.*; take the original checkpoint"))
    for index, (name, _) in enumerate(names):
        rows = card.reading.outputs if index == len(names) - 1 else tensors[name].shape[0]
        if tuple(tensors[name].shape) != (rows, width):
            raise JudgeError(
                shorten(
                    f"{where} has {name} of shape {list(tensors[name].shape)}, but {[rows, width]} "
                    "is expected; take the original checkpoint"
                )
            )
        width = rows


def _read_tensors(folder: Path, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Read some tensors of a folder's files in float32."""
    from safetensors import safe_open

    values: dict[str, Tensor] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in set(names) & set(file.keys()):
                values[name] = file.get_tensor(name).to(device, torch.float32)
    return values
