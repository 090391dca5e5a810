"""A vision-language model: images and token ids in; states, logits or generated tokens out.

It knows no question and no answer. Only the state at the last position is turned into logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ...fill.checkpoint.config_limits import check_sizes, check_vision
from ...fill.checkpoint.modules import compute_dtype, load_pretrained
from ...fill.checkpoint.packing import expansion_bytes, pack_linears, packed_bytes
from ...fill.io.files import num_bytes, read_weights, tensor_bytes
from ...fill.io.json_text import label_of
from ...fill.memory.components import Component
from ..judge import JudgeConfig, JudgeError, judge_folder
from .adapter import attach_adapter, check_adapter
from .families import check_tensors, model_class, read_image_settings, read_model_config
from .liger import check_liger, use_liger
from .preprocess import PatchConfig, read_patch_config, to_patches

PAD = 0
"""Any token but an image's: what follows the last position is never attended to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedImage:
    """An image as the language model gets it. Example: ``model.encode_images([image])[0].tokens``.

    The deepstack features are what some families add to the states after their first layers.
    """

    tokens: torch.Tensor
    """``[rows * cols, width]``: one embedding per merged patch."""
    rows: int
    cols: int
    deepstack: tuple[torch.Tensor, ...] = ()
    """One tensor like ``tokens`` per layer of the language model that gets one."""


class ChatRow(NamedTuple):
    """A conversation with its images. Example: ``ChatRow(chat.ids(words), [first])``."""

    ids: Sequence[int]
    """Token ids, with one image token for each image."""
    images: Sequence[EncodedImage]


class VisionLanguageModel:
    """A model in a transformers folder; weights are read when a host first makes it resident.

    Example: ``VisionLanguageModel(JudgeConfig(), torch.device('cpu')).encode_images([image])``.

    Args:
        config: Folder, precision, adapter and the like.
        device: Where it will run.
        heads: Begins the names of further tensors in the folder that somebody else reads, such as
            ``score.``; any others are refused.

    Attributes:
        folder: Of the checkpoint.
        values: Its ``config.json``.
        tensors: What its files hold, by name.
        component: The whole model, for the host.
        patches: How images are cut.
        image_token: Stands for an image in token ids.
        expansion_bytes: What the largest packed layer takes while it is used; 0 without any.
        has_grid_positions: Whether tokens of an image have positions in a grid, else as text.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Pickled or damaged weights.
        JudgeError: No supported model, a head that nobody reads, an adapter for another question,
            or kernels that cannot run here.
    """

    def __init__(
        self, config: JudgeConfig, device: torch.device, heads: tuple[str, ...] = ()
    ) -> None:
        # The folder and what it says of the model.
        self.config = config
        self.has_grid_positions = True
        self.folder = judge_folder(config.folder)
        self.values = read_model_config(self.folder)
        if config.liger_kernel:
            check_liger(device, self.values["model_type"])
        image_settings = read_image_settings(self.folder)
        check_vision(label_of(self.folder), self.values, image_settings)
        self.image_token = int(self.values["image_token_id"])
        self._class = model_class(self.values["model_type"])
        self.patches: PatchConfig = read_patch_config(image_settings, config.max_pixels)
        # Sizes of the weights.
        dtype = compute_dtype(config.precision, device)
        self.tensors = read_weights(self.folder)
        check_sizes(label_of(self.folder), self.values, self.tensors)
        check_tensors(self.folder, self.tensors, heads)
        sizes = tensor_bytes(self.tensors, dtype.itemsize)
        size = sum(packed_bytes(self.tensors, sizes, config.precision).values())
        self.expansion_bytes = expansion_bytes(self.tensors, config.precision)
        if config.adapter:
            size += num_bytes(check_adapter(Path(config.adapter)), torch.float32.itemsize)
        loading = max(size, sum(sizes.values()))
        self.component = Component("judge", lambda: self._load(dtype), size, dtype, None, loading)

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[EncodedImage]:
        """Run the vision tower once for images ``[3, H, W]``, 0..1, of any sizes."""
        if not images:
            return []
        cut = [to_patches(image, self.patches) for image in images]
        grid = torch.tensor([[1, *size] for _, size in cut], device=images[0].device)
        model: Any = self.component.module
        patches = torch.cat([p for p, _ in cut]).to(self.component.dtype)  # [all patches, values]
        features, deepstack = _features(model.model.get_image_features(patches, grid))
        merge = self.patches.merge_size
        sizes = [(rows // merge, cols // merge) for _, (rows, cols) in cut]
        layers = [_per_image(layer, sizes) for layer in deepstack]
        return [
            EncodedImage(
                tokens=tokens,
                rows=rows,
                cols=cols,
                deepstack=tuple(layer[index] for layer in layers),
            )
            for index, (tokens, (rows, cols)) in enumerate(
                zip(_per_image(features, sizes), sizes, strict=True)
            )
        ]

    def last_states(self, rows: Sequence[ChatRow]) -> torch.Tensor:
        """Return the final states at the last position of every row, ``[len(rows), width]``.

        Differentiable. Rows may differ in length and in number and sizes of images.
        """
        out, last = self._run(rows, use_cache=False)
        return out.last_hidden_state[torch.arange(len(rows), device=last.device), last]

    def last_logits(self, rows: Sequence[ChatRow]) -> torch.Tensor:
        """Return the logits of the token after every row, ``[len(rows), vocabulary]``, float32."""
        return self.logits(self.last_states(rows))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of final states ``[..., width]``: ``[..., vocabulary]``, float32."""
        model: Any = self.component.module
        return model.lm_head(states).float()

    @torch.no_grad()
    def generate(
        self,
        row: ChatRow,
        max_tokens: int,
        stop: Collection[int],
        tick: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Return the most probable continuation of a row, without the token that ended it.

        Args:
            row: What is continued.
            max_tokens: Most tokens that are generated.
            stop: Tokens that end it.
            tick: Called before every token; may raise, to cancel.
        """
        model: Any = self.component.module
        out, last = self._run([row], use_cache=True)
        state, ids = out.last_hidden_state[:, int(last)], []
        # Text after the images counts on from the largest position.
        expanded = torch.tensor([self._expand(row)])
        position = int(self._positions(expanded, last.cpu(), [row]).max()) + 1
        length = expanded.shape[1]
        while True:
            tick()
            token = int(self.logits(state).argmax())
            if token in stop:
                return ids
            ids.append(token)
            if len(ids) == max_tokens:
                return ids
            out = model.model.language_model(
                inputs_embeds=self._embed(torch.tensor([[token]])),
                position_ids=_with_order(torch.full((3, 1, 1), position), length).to(state.device),
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            state = out.last_hidden_state[:, -1]
            position, length = position + 1, length + 1

    def _run(self, rows: Sequence[ChatRow], use_cache: bool) -> tuple[Any, torch.Tensor]:
        """Return the language model's output, and the last position of every row."""
        model: Any = self.component.module
        expanded = [self._expand(row) for row in rows]
        longest = max(len(ids) for ids in expanded)
        ids = torch.tensor([_padded(ids, longest) for ids in expanded])  # [N, L]
        embeds = self._embed(ids)  # [N, L, D]
        images = [image for row in rows for image in row.images]
        options: dict[str, Any] = {}
        if images:
            # The images go in the places of their tokens.
            places = (ids == self.image_token).to(embeds.device)  # [N, L]
            tokens = torch.cat([image.tokens for image in images])
            embeds = embeds.masked_scatter(places[..., None], tokens.to(embeds.dtype))
            if images[0].deepstack:
                layers = zip(*(image.deepstack for image in images), strict=True)
                options["visual_pos_masks"] = places
                options["deepstack_visual_embeds"] = [torch.cat(layer) for layer in layers]
        # Padding stands on the right, where causal attention and recurrence do not see it.
        last = torch.tensor([len(row) - 1 for row in expanded])
        out = model.model.language_model(
            inputs_embeds=embeds,
            position_ids=_with_order(self._positions(ids, last, rows)).to(embeds.device),
            use_cache=use_cache,
            **options,
        )
        return out, last.to(embeds.device)

    def _expand(self, row: ChatRow) -> list[int]:
        """Return the token ids of a row with an entry for every token of its images."""
        if row.ids.count(self.image_token) != len(row.images):
            raise JudgeError(
                f"the text has places for {row.ids.count(self.image_token)} images, but "
                f"{len(row.images)} are given"
            )
        sizes = iter([image.rows * image.cols for image in row.images])
        ids: list[int] = []
        for token in row.ids:
            ids.extend([token] * (next(sizes) if token == self.image_token else 1))
        return ids

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        model: Any = self.component.module
        table = model.get_input_embeddings()
        return table(ids.to(table.weight.device))

    def _positions(
        self, ids: torch.Tensor, last: torch.Tensor, rows: Sequence[ChatRow]
    ) -> torch.Tensor:
        """Return multimodal positions ``[3, N, L]``, by the model's own function."""
        if not self.has_grid_positions:
            return torch.arange(ids.shape[1]).expand(3, *ids.shape)
        model: Any = self.component.module
        function, merge = model.model.get_rope_index, self.patches.merge_size
        options: dict[str, Any] = {
            "attention_mask": (torch.arange(ids.shape[1]) <= last[:, None]).long()
        }
        if grid := [(1, i.rows * merge, i.cols * merge) for row in rows for i in row.images]:
            options["image_grid_thw"] = torch.tensor(grid)
        if "mm_token_type_ids" in inspect.signature(function).parameters:
            options["mm_token_type_ids"] = (ids == self.image_token).int()
        return function(ids, **options)[0]

    def _load(self, dtype: torch.dtype) -> nn.Module:
        model = load_pretrained(self._class, self.folder, JudgeError, dtype=dtype)
        pack_linears(model, self.config.precision)
        if self.config.liger_kernel:
            use_liger(model, self.values["model_type"])
        if self.config.adapter:
            attach_adapter(model, Path(self.config.adapter))
        return model.eval()


def _with_order(positions: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Return positions ``[3, N, L]`` below the tokens' order, ``[4, N, L]``.

    Without it some transformers take an image's equal positions for the start of another text.
    """
    order = torch.arange(start, start + positions.shape[-1]).expand(1, *positions.shape[1:])
    return torch.cat([order, positions])


def _features(out: Any) -> tuple[Any, Sequence[Any]]:
    """Return the images' embeddings and deepstack features, however this transformers gives them.

    Up to version 5: the embeddings of every image, or a pair of those and the features.
    """
    if hasattr(out, "pooler_output"):
        return out.pooler_output, getattr(out, "deepstack_features", None) or ()
    is_pair = isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], list)
    return out if is_pair else (out, ())


def _per_image(
    tokens: torch.Tensor | Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]
) -> Sequence[torch.Tensor]:
    if not isinstance(tokens, torch.Tensor):
        return tokens
    return tokens.split([rows * cols for rows, cols in sizes])


def _padded(values: Sequence[Any], length: int) -> list[Any]:
    return [*values, *[PAD] * (length - len(values))]
