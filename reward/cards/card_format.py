"""Judge cards: how a checkpoint is asked about images, and how its answer is read.

``judge_card.json`` beside a checkpoint or an adapter, whole::

    {"format": 1,
     "name": "My-Edit-Judge",
     "evidence": "Asked as its evaluation code does; not tried with its weights.",
     "questions": {
       "text_alignment": {"text": "<image><image>Instruction: {instruction}. Score 1 to 5?"},
       "default": {"text": "<image><image>Is the edit clean? Score 1 to 5?"}},
     "reading": {"kind": "digits", "low": 1, "high": 5},
     "images": "source_single",
     "names": ["my-edit-judge"], "families": ["qwen3_vl"],
     "source": "https://...", "licence": "MIT"}

A question is looked up as ``task.dimension``, ``dimension`` and ``default``. Its text may have the
fields ``{prompt}``, ``{instruction}`` (the prompt as an order to edit), ``{task}``, ``{dimension}``
and ``{question}`` (the built-in one), and ``<image>`` where images go; without, they come first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...fill.io.json_text import quote, shorten
from ...fill.json_config import JsonConfig, setting
from ...fill.task import TASKS, Dimension, Task
from ..judging import VIEWS

FILE_NAME = "judge_card.json"
PAIR, SOURCE_PAIR, SOURCE_SINGLE, SINGLE = IMAGES = (
    "pair",
    "source_pair",
    "source_single",
    "single",
)
"""What one question shows: both images; the source and both; the source and one; one alone."""
NUM_IMAGES = {PAIR: 2, SOURCE_PAIR: 3, SOURCE_SINGLE: 2, SINGLE: 1}
TOKEN_PAIR, DIGITS, HEAD, GENERATE = KINDS = ("token_pair", "digits", "head", "generate")
DEFAULT = "default"
MARKER = "<image>"
FIELDS = {"prompt", "instruction", "task", "dimension", "question"}
_SUBJECT = {"prompt", "instruction", "question"}
_FIELD = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReading(JsonConfig):
    """How an answer becomes a number. Example: ``CardReading(kind='digits', low=1, high=5)``."""

    kind: str = setting(
        TOKEN_PAIR,
        "token_pair: the next token is one of two words; digits: its expected value; head: further "
        "weights score a state; generate: the answer is written out, without gradient.",
        options=KINDS,
    )
    first: tuple[str, ...] = ("Yes",)
    """Spellings of: the first image is better, or of one image alone: it is good."""
    second: tuple[str, ...] = ("No",)
    """Spellings of the opposite."""
    whole_vocabulary: bool = False
    """Whether a pair's probability is that among all tokens, else between the two words."""
    low: float = 0.0
    """Lowest score; of digits, the first one."""
    high: float = 5.0
    """Highest score."""
    temperature: float = setting(
        1.0,
        "Difference of two single scores at which the better one is preferred with 73 %.",
        min=1e-6,
        max=1e6,
    )
    token: str = ""
    """head: after which added token the state is scored; empty: after the conversation."""
    outputs: int = setting(1, "head: Numbers it gives; the first is the score.", min=1, max=64)
    max_new_tokens: int = setting(512, "generate: Most tokens of an answer.", min=1, max=8192)
    reasons: bool = False
    """generate: Whether a model that can think before it answers does so."""

    def __post_init__(self) -> None:
        """Refuse words that are missing or in both lists, and scales without two ends."""
        JsonConfig.__post_init__(self)
        if not self.first or not self.second or "" in (*self.first, *self.second):
            raise ValueError("first and second of a card's reading need a word each")
        if common := sorted({w.strip() for w in self.first} & {w.strip() for w in self.second}):
            raise ValueError(f"{quote(common[0])} stands in first and second of a card's reading")
        if not self.low < self.high:
            raise ValueError(
                f"a card's scale is {self.low:g} to {self.high:g}, but high must be above low"
            )
        ends = (self.low, self.high)
        if self.kind == DIGITS and any(end not in range(10) for end in ends):
            raise ValueError(
                f"digits go from {self.low:g} to {self.high:g}, but only 0 to 9 are one token "
                "each; read a larger scale by generate"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CardQuestion(JsonConfig):
    """What is said about images. Example: ``CardQuestion(text='Is the first better?')``."""

    text: str = ""
    """With fields and image markers, see the module; empty: the card's."""
    images: str = setting("", "What it shows; empty: as the card says.", options=("", *IMAGES))
    pattern: str = ""
    """generate: regular expression whose first group is the score or the word."""
    head: str = ""
    """head: Begins the names of its weights, such as ``rm_heads.head_0``."""

    def __post_init__(self) -> None:
        """Refuse a broken pattern."""
        JsonConfig.__post_init__(self)
        try:
            num_groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"a card's pattern is no regular expression: {error}") from error
        if self.pattern and not num_groups:
            raise ValueError(
                f"a card's pattern {quote(self.pattern)} has no group ( ) around the answer"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCard(JsonConfig):
    """How a checkpoint is asked and read. Example: ``JudgeCard.load(path).needs_source``."""

    name: str
    questions: dict[str, Any]
    """:class:`CardQuestion` by ``task.dimension``, dimension, or ``default``."""
    evidence: str
    """What of the card was tried, and what not."""
    text: str = ""
    """Of the questions that have none of their own."""
    reading: CardReading = field(default_factory=CardReading)
    images: str = setting(PAIR, "What a question shows.", options=IMAGES)
    names: tuple[str, ...] = ()
    """Parts of folder names by which the checkpoint is recognised."""
    families: tuple[str, ...] = ()
    """``model_type`` of the checkpoints it is for; empty: any."""
    system: str = ""
    """System message; empty: the chat template's own."""
    answer_start: str = ""
    """What the answer begins with, before the token that is read."""
    view: str = setting(VIEWS[0], "How its images should be shown.", options=VIEWS)
    pixels: int = setting(
        0,
        "Pixels that every image is resized to; 0: only large ones are shrunk.",
        min=0,
        max=1 << 26,
    )
    image_positions: str = setting(
        "grid",
        "Whether the tokens of an image have positions in a grid, or count on like text.",
        options=("grid", "text"),
    )
    source: str = ""
    """Address of the evaluation code that it was made from."""
    licence: str = ""
    """Of the words taken from there."""

    def __post_init__(self) -> None:
        """Refuse questions that cannot be asked or read."""
        JsonConfig.__post_init__(self)
        if not self.questions:
            raise ValueError(f"card {quote(self.name)} asks nothing; give it a question")
        for key, question in self.questions.items():
            self._check_question(key, question)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> JudgeCard:
        """Make a card of JSON values; ValueError says what is wrong with which question."""
        # Not super(): the class that slots make is another than the one that super() knows.
        make = JsonConfig.from_values.__func__
        questions = values.get("questions") if isinstance(values, Mapping) else None
        if not isinstance(questions, Mapping):
            return make(cls, values)
        parsed = {}
        for key, question in questions.items():
            try:
                parsed[key] = CardQuestion.from_values(question)
            except ValueError as error:
                raise ValueError(shorten(f"question {quote(key)}: {error}")) from error
        return make(cls, {**values, "questions": parsed})

    @property
    def needs_source(self) -> bool:
        """Whether a question shows the image before the edit."""
        return any(
            self.images_of(q) in (SOURCE_PAIR, SOURCE_SINGLE) for q in self.questions.values()
        )

    @property
    def is_differentiable(self) -> bool:
        """Whether gradients reach the pixels."""
        return self.reading.kind != GENERATE

    @property
    def heads(self) -> tuple[str, ...]:
        """What begins the names of the further weights it reads, once each."""
        return tuple(dict.fromkeys(q.head for q in self.questions.values() if q.head))

    def images_of(self, question: CardQuestion) -> str:
        """Return what a question shows."""
        return question.images or self.images

    def parts_of(self, question: CardQuestion, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the texts before, between and after the images of a question.

        Args:
            question: One of this card's.
            values: Of the fields. What looks like a field or a marker in them stays as it is.
        """
        template = question.text or self.text
        if MARKER not in template:
            template = MARKER * NUM_IMAGES[self.images_of(question)] + template
        return tuple(_FIELD.sub(lambda m: values[m[1]], part) for part in template.split(MARKER))

    def question_for(self, task: Task, dimension: Dimension) -> CardQuestion:
        """Return what is asked about a dimension; ValueError if nothing is."""
        for key in (f"{task.value}.{dimension.value}", dimension.value, DEFAULT):
            if key in self.questions:
                return self.questions[key]
        raise ValueError(
            f"card {quote(self.name)} has no question about {dimension.value} of {task.value}; "
            "leave that dimension out, or add it or a default to the card"
        )

    def _check_question(self, key: str, question: CardQuestion) -> None:
        """Raise ValueError if a question is at no known key, or lacks what its reading needs."""
        where = f"question {quote(key)} of card {quote(self.name)}"
        dimensions = {d.value for d in Dimension}
        cells = {f"{t.value}.{d.value}" for t in Task for d in TASKS[t].dimensions}
        if key not in {DEFAULT, *dimensions, *cells}:
            raise ValueError(shorten(f"{where} is about no dimension; use one of: {_keys()}"))
        text = question.text or self.text
        if not text.strip():
            raise ValueError(f"{where} has no text, and the card has none either")
        asks = set(_FIELD.findall(text))
        if unknown := sorted(asks - FIELDS):
            raise ValueError(
                f"{where} has the unknown field {{{unknown[0]}}}; use "
                + ", ".join(f"{{{name}}}" for name in sorted(FIELDS))
            )
        if key.endswith(Dimension.TEXT_ALIGNMENT.value) and not asks & _SUBJECT:
            raise ValueError(f"{where} lacks the field {{prompt}}, {{instruction}} or {{question}}")
        markers, expected = text.count(MARKER), NUM_IMAGES[self.images_of(question)]
        if markers not in (0, expected):
            raise ValueError(
                f"{where} has {markers} times {MARKER}, but {self.images_of(question)} shows "
                f"{expected} images"
            )
        needs = {GENERATE: ("pattern", question.pattern), HEAD: ("head", question.head)}
        name, value = needs.get(self.reading.kind, ("", "any"))
        if not value:
            raise ValueError(f"{where} has no {name}, which the reading {self.reading.kind} needs")
        is_pair = self.images_of(question) in (PAIR, SOURCE_PAIR)
        if is_pair and self.reading.kind in (DIGITS, HEAD):
            raise ValueError(
                f"{where} shows two candidates, but {self.reading.kind} scores one; use images "
                f"{SOURCE_SINGLE} or {SINGLE}"
            )


def _keys() -> str:
    return ", ".join([DEFAULT, *(d.value for d in Dimension)])
