"""The vision-language judge: P("Yes") of a Qwen2.5-VL (or Qwen2-VL) checkpoint, down to the pixels.

Source: OneReward, sec. 4.3. The probability is that of the token itself under the full vocabulary,
at the one position where the answer begins; no other row of logits is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ...fill.checkpoint.modules import compute_dtype, load_pretrained
from ...fill.checkpoint.packing import expansion_bytes, pack_linears, packed_bytes
from ...fill.config import PACKED_PRECISIONS
from ...fill.io.file_digest import fingerprint_files
from ...fill.io.files import num_bytes, read_json, read_weights, tensor_bytes
from ...fill.memory.components import Component
from ..judge import BUNDLED, BUNDLED_FOLDER, JudgeConfig, JudgeError, judge_folder
from ..query import TEMPLATE_VERSION, Query
from .adapter import WEIGHTS, attach_adapter, check_adapter, read_notes
from .chat import Chat
from .liger import check_liger, use_liger
from .preprocess import PatchConfig, read_patch_config, to_patches

MODEL_TYPES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
}
RESULT = "judge"
"""Folder in that of a run, where a judge is written that was trained as a whole."""
PAD = 0
"""Any token but an image's: what follows the answer position is never attended to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedImage:
    """An image as the language model gets it. Example: ``judge.encode(image).tokens``."""

    tokens: torch.Tensor
    """``[rows * cols, width]``: one embedding per merged patch."""
    rows: int
    cols: int


class Question(Protocol):
    """Anything that can be asked about two images. Example: :class:`~..query.Query`."""

    def question(self) -> str:
        """Return the text of the question."""
        ...


PairQuestion = tuple[EncodedImage, EncodedImage, Question]
"""A question with its first and second image."""


class QwenJudge:
    """A judge in a transformers folder; weights are read when a host first makes it resident.

    Example: ``QwenJudge(JudgeConfig(), torch.device('cpu')).encode(image)``.

    Attributes:
        config: What it was made from.
        component: The whole model, for the host.
        chat: Tokenizer and chat template.
        patches: How images are cut.
        expansion_bytes: What the largest packed layer takes while it is used; 0 without any.
    """

    def __init__(self, config: JudgeConfig, device: torch.device) -> None:
        """Check the folder.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: Pickled or damaged weights.
            JudgeError: No Qwen-VL model, an adapter for another question, or kernels that cannot
                run here.
        """
        # The folder and what it says of the model.
        self.config = config
        self._folder = judge_folder(config.folder)
        if config.liger_kernel:
            check_liger(device)
        values = read_json(self._folder / "config.json")
        if values.get("model_type") not in MODEL_TYPES:
            raise JudgeError(
                f"{self._folder} is a {values.get('model_type')} model, but a judge needs "
                "Qwen2.5-VL or Qwen2-VL; choose such a folder"
            )
        self._type = values["model_type"]
        self._image_token = int(values["image_token_id"])
        self.patches: PatchConfig = read_patch_config(
            read_json(self._folder / "preprocessor_config.json"), config.max_pixels
        )
        # Sizes of the weights.
        dtype = compute_dtype(config.precision, device)
        tensors = read_weights(self._folder)
        sizes = tensor_bytes(tensors, dtype.itemsize)
        size = sum(packed_bytes(tensors, sizes, config.precision).values())
        self.expansion_bytes = expansion_bytes(tensors, config.precision)
        if config.adapter:
            size += num_bytes(check_adapter(Path(config.adapter)), torch.float32.itemsize)
        self.chat = Chat(self._folder, self._image_token)
        loading = max(size, sum(sizes.values()))
        self.component = Component("judge", lambda: self._load(dtype), size, dtype, None, loading)

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

    @cached_property
    def identity(self) -> str:
        """A digest that changes when judge, adapter or what it sees of images changes."""
        packing = self.config.precision if self.config.precision in PACKED_PRECISIONS else ""
        version = str(TEMPLATE_VERSION)
        settings = (str(self.patches.max_pixels), str(self.component.dtype), packing, version)
        return fingerprint_files(self.files, *settings)

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

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[EncodedImage]:
        """Run the vision tower once for images of any sizes; each as for :meth:`encode`."""
        cut = [to_patches(image, self.patches) for image in images]
        grid = torch.tensor([[1, *size] for _, size in cut], device=images[0].device)
        model: Any = self.component.module
        patches = torch.cat([p for p, _ in cut]).to(self.component.dtype)  # [all patches, values]
        out = model.model.get_image_features(patches, grid)
        merge = self.patches.merge_size
        return [
            EncodedImage(tokens=tokens, rows=rows // merge, cols=cols // merge)
            for tokens, (_, (rows, cols)) in zip(
                getattr(out, "pooler_output", out), cut, strict=True
            )
        ]

    def ask(
        self, first: EncodedImage, second: EncodedImage, queries: Sequence[Query]
    ) -> torch.Tensor:
        """Return P("Yes") per query, ``[len(queries)]``, float32; all queries in one pass."""
        return self.answer([(first, second, query) for query in queries])[:, 0].exp()

    def answer(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return log P("Yes"), log P("No") under the full vocabulary, ``[len(questions), 2]``."""
        return self.answer_logits(questions).log_softmax(dim=-1)[:, list(self.answer_ids)]

    def answer_logits(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        """Return the logits at the answer positions, ``[len(questions), vocabulary]``, float32.

        Args:
            questions: (first image, second image, query), any mixture of images and sizes.
        """
        model: Any = self.component.module
        device = questions[0][0].tokens.device
        rows = [self._ids(*question) for question in questions]
        longest = max(len(ids) for ids in rows)
        # Padding stands on the right, which a causal model does not attend to.
        ids = torch.tensor([r + [PAD] * (longest - len(r)) for r in rows], device=device)  # [N, L]
        # Token embeddings, with the images in their places.
        embeds = model.get_input_embeddings()(ids)  # [N, L, D]
        images = torch.cat([encoded.tokens for question in questions for encoded in question[:2]])
        embeds = embeds.masked_scatter(
            (ids == self._image_token)[..., None], images.to(embeds.dtype)
        )
        positions = [
            self._positions(row, longest, question[:2])
            for row, question in zip(rows, questions, strict=True)
        ]
        # The states at the answer positions.
        states = model.model.language_model(
            inputs_embeds=embeds,
            position_ids=torch.stack(positions, dim=1).to(device),
            use_cache=False,
        ).last_hidden_state
        last = torch.tensor([len(r) - 1 for r in rows], device=device)
        return model.lm_head(states[torch.arange(len(rows), device=device), last]).float()

    def _ids(self, first: EncodedImage, second: EncodedImage, question: Question) -> list[int]:
        """Return the token ids of a question with an entry for every token of the images."""
        sizes = iter([first.rows * first.cols, second.rows * second.cols])
        ids: list[int] = []
        for token in self.chat.ids(question.question()):
            ids.extend([token] * (next(sizes) if token == self._image_token else 1))
        return ids

    def _positions(
        self, ids: list[int], length: int, images: tuple[EncodedImage, EncodedImage]
    ) -> torch.Tensor:
        """Return multimodal positions ``[3, length]`` (time, row, column).

        Source: transformers, ``Qwen2_5_VLModel.get_rope_index``: text counts on along all three
        axes, an image spans its grid and moves the count by its longer side.
        """
        columns: list[tuple[int, int, int]] = []
        shapes = iter(images)
        here = 0
        while len(columns) < len(ids):
            if ids[len(columns)] != self._image_token:
                columns.append((here, here, here))
                here += 1
                continue
            shape = next(shapes)
            columns.extend(
                (here, here + r, here + c) for r in range(shape.rows) for c in range(shape.cols)
            )
            here += max(shape.rows, shape.cols)
        columns.extend([(0, 0, 0)] * (length - len(ids)))
        return torch.tensor(columns).T

    def _load(self, dtype: torch.dtype) -> nn.Module:
        import transformers

        cls = getattr(transformers, MODEL_TYPES[self._type])
        model = load_pretrained(cls, self._folder, JudgeError, dtype=dtype)
        pack_linears(model, self.config.precision)
        if self.config.liger_kernel:
            use_liger(model, self._type)
        if self.config.adapter:
            attach_adapter(model, Path(self.config.adapter))
        return model.eval()
