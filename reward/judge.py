"""What a judge is: it answers queries about pairs of images with probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from ..fill.config import PRECISIONS
from ..fill.json_config import JsonConfig, setting
from ..fill.memory.components import Component
from ..fill.task import Dimension

BUNDLED = "bundled"
"""The judge that comes with this package, instead of a folder."""
BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "judge"


class JudgeError(RuntimeError):
    """A checkpoint cannot judge; says why. Example: ``except JudgeError as error: ...``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig(JsonConfig):
    """Which judge to load and how. Example: ``JudgeConfig(folder=path, precision='nf4')``."""

    folder: str = BUNDLED
    """Folder of a Qwen-VL or Qwen3.5 checkpoint in transformers format, or ``bundled``."""
    precision: str = setting(
        "auto",
        "Data type of the weights; auto = bf16 on a GPU, fp32 on a CPU. fp8, nf4 = as auto, but "
        "the language model's layers are packed into a half or a quarter of bf16: a little off, "
        "slower.",
        options=PRECISIONS,
    )
    max_pixels: int = setting(
        512 * 512,
        "Largest image the judge sees, in pixels; larger ones are shrunk, to save time and memory.",
        min=28 * 28,
        max=1 << 26,
        step=16,
    )
    adapter: str = ""
    """Folder of a LoRA adapter in PEFT format; empty: none."""
    liger_kernel: bool = setting(
        False,
        "Fused kernels of the package liger-kernel, on a CUDA GPU: faster, the same answers.",
    )
    card: str = ""
    """A bundled card's name or a card's file; empty: the checkpoint's own, see ``cards``."""

    def __post_init__(self) -> None:
        """Refuse what is out of limits."""
        JsonConfig.__post_init__(self)
        if not self.folder:
            raise ValueError("no judge folder given; choose a judge in the loader")


def judge_folder(name: str) -> Path:
    """Return the folder of a judge; FileNotFoundError if the bundled one is absent."""
    if name != BUNDLED:
        return Path(name)
    if not (BUNDLED_FOLDER / "config.json").is_file():
        raise FileNotFoundError(
            "the bundled judge is not part of this copy of the pack; choose a Qwen2.5-VL folder, "
            "which ComfyUI looks for in models/onereward"
        )
    return BUNDLED_FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentConfig(JsonConfig):
    """A judge that only the server knows which has loaded it; a record, from which none is made.

    Example: ``ResidentConfig(label="qwen3vl_4b (native)", digest="5d0c2e...", max_pixels=262144)``.
    """

    label: str
    digest: str
    """Of its weights."""
    max_pixels: int
    """Largest image it saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Answers about one pair. Example: ``judge_pair(judge, first, second, queries).mean()``."""

    probabilities: dict[Dimension, float]
    """P(the first image is better), per dimension."""

    def mean(self, weights: dict[Dimension, float] | None = None) -> float:
        """Return the weighted mean over the dimensions; equal weights if none are given."""
        weigh = {d: 1.0 if weights is None else weights.get(d, 0.0) for d in self.probabilities}
        total = sum(weigh.values())
        if total <= 0:
            raise ValueError("all dimension weights are 0; give at least one that is above 0")
        return sum(p * weigh[d] for d, p in self.probabilities.items()) / total


class Question(Protocol):
    """Anything that can be asked about two images. Example: :class:`~.query.Query`."""

    def question(self) -> str:
        """Return the text of the question."""
        ...


class PairQuestion(NamedTuple):
    """A question about two images that a judge has encoded.

    Example: ``judge.probabilities([PairQuestion(first, second, query)])``.
    """

    first: Any
    second: Any
    query: Question
    source: Any = None
    """The image before the edit, encoded; needed by judges with ``needs_source``."""


class PairScorer(Protocol):
    """The part of a judge that choosing needs. Example: ``judge_pair(scorer, a, b, queries)``."""

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return P(the first image is better), ``[len(questions)]``, float32."""
        ...


class Judge(PairScorer, Protocol):
    """Answers "is the first image better than the second?", whatever it is made of.

    Example: A :class:`~.vlm.qwen_vl.QwenJudge` is one.
    """

    @property
    def label(self) -> str:
        """A short name for records and reports."""
        ...

    @property
    def identity(self) -> str:
        """A digest that changes when an answer might: weights, settings, wording."""
        ...

    @property
    def digest(self) -> str:
        """A digest of the weights alone, for runs that must go on with the same ones."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where its report is kept; None: nowhere."""
        ...

    @property
    def notes(self) -> Mapping[str, Any]:
        """What its training noted, such as the view of the images; empty if it is unknown."""
        ...

    @property
    def needs_source(self) -> bool:
        """Whether questions must have the image before the edit."""
        ...

    @property
    def is_differentiable(self) -> bool:
        """Whether gradients reach the pixels, so that it can be a training reward."""
        ...

    @property
    def components(self) -> tuple[Component, ...]:
        """What a host makes resident while the judge works; empty for one that runs elsewhere."""
        ...

    def to_values(self) -> dict[str, Any]:
        """Return what :func:`~.load_judge.load_judge` makes the same judge of, as JSON values."""
        ...

    def check(self) -> None:
        """Raise JudgeError if it cannot be asked; no weight is read."""
        ...

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        """Return the activations of judging without gradient, in bytes.

        Args:
            pixels: Of what it is shown as one image.
            rows: Pairs that are judged at once.
        """
        ...

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        """Return the activations of judging with gradient, in bytes; arguments as above.

        Args:
            pixels: Of what it is shown as one image.
            rows: Pairs that are judged at once.
            recompute: Whether layers forget what they compute until the backward pass.
        """
        ...

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[Any]:
        """Prepare images ``[3, H, W]``, 0..1, each once for any number of questions."""
        ...
