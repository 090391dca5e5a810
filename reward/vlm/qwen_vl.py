"""The vision-language judge: P("Yes") of a checkpoint of the Qwen-VL families, down to the pixels.

Source: OneReward, sec. 4.3. The probability is that of the token itself under the full vocabulary,
at the one position where the answer begins; no other row of logits is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...fill.config import PACKED_PRECISIONS
from ...fill.io.file_digest import fingerprint_files
from ...fill.memory.components import Component
from ..judge import BUNDLED, BUNDLED_FOLDER, JudgeConfig, PairQuestion
from ..query import TEMPLATE_VERSION, Query
from .adapter import WEIGHTS, read_notes
from .chat import Chat, about_pair
from .memory import judging_bytes, saved_bytes
from .model import ChatRow, EncodedImage, VisionLanguageModel

RESULT = "judge"
"""Folder in that of a run, where a judge is written that was trained as a whole."""


class FolderJudge:
    """What all judges in transformers folders share; weights are read when a host needs them.

    Example: ``class MyJudge(FolderJudge): ...``; it adds how the model is asked and read.

    Args:
        config: Folder, precision, adapter and the like.
        device: Where it will run.
        heads: As for :class:`~.model.VisionLanguageModel`, which says what is raised.

    Attributes:
        model: Encodes images, and answers about them.
        config: What it was made from.
        component: The whole model, for the host.
        chat: Tokenizer and chat template.
        patches: How images are cut.
        expansion_bytes: What the largest packed layer takes while it is used; 0 without any.
        wording: Of its questions, for its identity.
    """

    wording = str(TEMPLATE_VERSION)

    def __init__(
        self, config: JudgeConfig, device: torch.device, heads: tuple[str, ...] = ()
    ) -> None:
        self.model = VisionLanguageModel(config, device, heads)
        self.config, self._folder = config, self.model.folder
        self.component, self.patches = self.model.component, self.model.patches
        self.expansion_bytes = self.model.expansion_bytes
        self.chat = Chat(self._folder, self.model.image_token)

    @property
    def folder(self) -> Path:
        """The folder that identifies this judge: its adapter's, else its own."""
        return Path(self.config.adapter) if self.config.adapter else self._folder

    @property
    def label(self) -> str:
        """A name for records: the model's, and the adapter's if it has one."""
        adapter = Path(self.config.adapter)
        suffix = f"+{adapter.parent.name}/{adapter.name}" if self.config.adapter else ""
        folder = self._folder
        # What training writes is called so in the folder of every run.
        name = (
            Path(folder.parent.name, folder.name).as_posix()
            if folder.name == RESULT
            else folder.name
        )
        return f"{BUNDLED if folder == BUNDLED_FOLDER else name}{suffix}"

    @property
    def notes(self) -> dict[str, Any]:
        """What its training noted, such as the view of the images; empty if it is unknown."""
        return read_notes(self.folder)

    @property
    def files(self) -> list[Path]:
        """The files of its weights; those of its adapter come last."""
        adapter_files = [Path(self.config.adapter) / WEIGHTS] if self.config.adapter else []
        return [*sorted(self._folder.glob("*.safetensors")), *adapter_files]

    @property
    def identity(self) -> str:
        """A digest that changes when judge, adapter or what it sees of images changes."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        packing = self.config.precision if self.config.precision in PACKED_PRECISIONS else ""
        pixels, dtype = str(self.patches.max_pixels), str(self.component.dtype)
        return fingerprint_files(self.files, pixels, dtype, packing, self.wording)

    @property
    def digest(self) -> str:
        """A digest of the weights, the adapter's too."""
        return fingerprint_files(self.files)

    @property
    def components(self) -> tuple[Component, ...]:
        """The model."""
        return (self.component,)

    def to_values(self) -> dict[str, Any]:
        """Return its config."""
        return asdict(self.config)

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        """Return the activations of judging without gradient, in bytes; leans towards too much."""
        return judging_bytes(self, pixels, rows)

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        """Return the activations of judging with gradient, in bytes."""
        return rows * saved_bytes(self, pixels, recompute) + self.expansion_bytes

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[EncodedImage]:
        """Run the vision tower once for images of any sizes; each as for :meth:`encode`."""
        return self.model.encode_images(images)


class QwenJudge(FolderJudge):
    """The built-in question to a model: "is the first better?", answered Yes or No.

    Example: ``QwenJudge(JudgeConfig(), torch.device('cpu')).encode(image)``.
    """

    @property
    def needs_source(self) -> bool:
        """False: the question is about two images."""
        return False

    @property
    def is_differentiable(self) -> bool:
        """True."""
        return True

    def check(self) -> None:
        """Raise JudgeError if the tokenizer has no single Yes and No, or no place for images."""
        _ = self.answer_ids

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's own tokenizer."""
        return self.chat.tokenizer

    @property
    def answer_ids(self) -> tuple[int, int]:
        """Token ids of "Yes" and "No"; JudgeError if this folder cannot be asked."""
        return self.chat.answer_ids

    def encode(self, image: torch.Tensor) -> EncodedImage:
        """Run the vision tower on one image ``[3, H, W]``, 0..1; differentiable."""
        return self.encode_images([image])[0]

    def ask(
        self, first: EncodedImage, second: EncodedImage, queries: Sequence[Query]
    ) -> torch.Tensor:
        """Return P("Yes") per query, ``[len(queries)]``, float32; all queries in one pass."""
        return self.probabilities([PairQuestion(first, second, query) for query in queries])

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return P("Yes") per question, ``[len(questions)]``, float32; all in one pass."""
        return self.answer(questions)[:, 0].exp()

    def answer(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return log P("Yes"), log P("No") under the full vocabulary, ``[len(questions), 2]``."""
        return self.answer_logits(questions).log_softmax(dim=-1)[:, list(self.answer_ids)]

    def answer_logits(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return the logits at the answer positions, ``[len(questions), vocabulary]``, float32.

        Args:
            questions: (first image, second image, query), any mixture of images and sizes.
        """
        return self.model.last_logits(
            [
                ChatRow(self.chat.ids(about_pair(query.question())), (first, second))
                for first, second, query, _ in questions
            ]
        )
