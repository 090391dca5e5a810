"""How much memory judging takes beside the weights, from a checkpoint's own widths.

Counted with saved-tensor hooks on transformers' own modules, with attention that keeps no scores
(flash, memory-efficient).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...fill.task import TASKS
from .preprocess import PatchConfig

if TYPE_CHECKING:
    from .qwen_vl import FolderJudge

TEXT_TOKENS = 200
"""Longest question with its chat template, in tokens."""
_TEXT, _VISION = (7, 3), (10, 3)
"""Numbers per token that a layer keeps for its backward pass, in widths and in inner widths."""
_HEADS, _ROUTED, _RECURRENT = 2.5, 1.1, 40
"""Further numbers of newer layers: per number of queries, keys and values, where each head has a
norm; per width that goes to an expert; per value of linear attention, most of them in float32."""
_PIXEL = 64
"""Bytes of a pixel while it is resized and cut into patches."""
_MARGIN = 2
"""What is asked for is so many times the count: a little idle memory costs less than none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """One of a judge's two stacks. Example: ``language, vision = towers_of(judge, pixels)``.

    All but the first two are numbers per token.
    """

    tokens: int
    layers: int
    width: int
    """Between two layers."""
    working: float
    """What a layer needs at most while it computes without gradient."""
    layer: float
    """What a layer keeps at most for its backward pass."""
    stack: float
    """What all layers keep together."""


def towers_of(judge: FolderJudge, pixels: int) -> tuple[Tower, Tower]:
    """Return the language model, asked about every dimension, and the vision tower of an image.

    Args:
        judge: The judge; its weights are not read.
        pixels: Of what it is shown as one image, before it is enlarged or shrunk.
    """
    values = judge.model.values
    return towers(
        values.get("text_config", values), values.get("vision_config", {}), judge.patches, pixels
    )


def towers(
    text: Mapping[str, Any], vision: Mapping[str, Any], patches: PatchConfig, pixels: int
) -> tuple[Tower, Tower]:
    """Return the two stacks of a model by its configs, as :func:`towers_of`."""
    # Qwen2-VL names its vision widths differently.
    width = vision.get("embed_dim", vision.get("hidden_size", 1280))
    inner = vision.get("intermediate_size", int(width * vision.get("mlp_ratio", 4)))
    merged = judged_pixels(patches, pixels) // patches.factor**2
    most = max(len(spec.dimensions) for spec in TASKS.values())
    layer = _VISION[0] * width + _VISION[1] * inner
    depth = vision.get("depth", 32)
    tower = Tower(
        tokens=merged * patches.merge_size**2,
        layers=depth,
        width=width,
        working=layer,
        layer=layer,
        stack=depth * layer,
    )
    return language_tower(text, most * (2 * merged + TEXT_TOKENS)), tower


def language_tower(text: Mapping[str, Any], tokens: int, widths: tuple[int, int] = _TEXT) -> Tower:
    """Return a language model by its config.

    Args:
        text: Its part of ``config.json``.
        tokens: That it sees.
        widths: Numbers per token of a plain layer, in widths and in inner widths.
    """
    width, layers = text["hidden_size"], text["num_hidden_layers"]
    experts = text.get("num_experts_per_tok", 0) if text.get("num_experts") else 0
    inner = text.get("intermediate_size", 0)
    if experts:
        inner = experts * text["moe_intermediate_size"]
        inner += text.get("shared_expert_intermediate_size", 0)
    working = widths[0] * width + widths[1] * inner + _ROUTED * experts * width
    # Queries are twice as wide where a gate comes with them.
    recurrent = text.get("linear_num_value_heads", 0) * text.get("linear_value_head_dim", 0)
    if "qwen3" in text.get("model_type", ""):
        head = text.get("head_dim") or width // text["num_attention_heads"]
        queries = text["num_attention_heads"] * (2 if recurrent else 1)
        working += _HEADS * head * (queries + 2 * text["num_key_value_heads"])
    num_recurrent = sum(kind == "linear_attention" for kind in text.get("layer_types") or ())
    if recurrent and not text.get("layer_types"):
        num_recurrent = layers - layers // text.get("full_attention_interval", 4)
    return Tower(
        tokens=tokens,
        layers=layers,
        width=width,
        working=working,
        layer=working + (_RECURRENT * recurrent if num_recurrent else 0),
        stack=layers * working + num_recurrent * _RECURRENT * recurrent,
    )


def judging_bytes(judge: FolderJudge, pixels: int, rows: int = 1) -> int:
    """Return the activations of judging without gradient, in bytes; leans towards too much.

    Args:
        judge: The one that is asked.
        pixels: Of what it is shown as one image.
        rows: Pairs that are judged at once.
    """
    language, vision = towers_of(judge, pixels)
    # The towers take turns, and a layer is forgotten when the next one works.
    numbers = max(language.tokens * language.working, 2 * vision.tokens * vision.working)
    images = 2 * rows * judged_pixels(judge.patches, pixels) * _PIXEL
    num_bytes = rows * int(numbers) * judge.component.dtype.itemsize + images
    return _MARGIN * num_bytes + judge.expansion_bytes


def saved_bytes(judge: FolderJudge, pixels: int, recompute: bool) -> int:
    """Return what one pair keeps for the backward pass, in bytes.

    Args:
        judge: The one that is asked.
        pixels: Of what it is shown as one image.
        recompute: Whether a layer keeps only its input.
    """
    stacks = towers_of(judge, pixels)
    if recompute:
        numbers = sum(t.tokens * (t.layers * t.width + t.layer) for t in stacks)
    else:
        numbers = sum(t.tokens * t.stack for t in stacks)
    return int(numbers) * judge.component.dtype.itemsize


def judged_pixels(patches: PatchConfig, pixels: int) -> int:
    """Return the pixels of an image once it has been enlarged or shrunk for the judge."""
    return max(patches.min_pixels, min(pixels, patches.max_pixels))
