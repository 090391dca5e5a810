"""How much memory judging takes beside the weights, from a checkpoint's own widths.

Counted with saved-tensor hooks on transformers' own modules, with attention that keeps no scores
(flash, memory-efficient).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...fill.io.files import read_json
from ...fill.task import TASKS
from ..judge import judge_folder

if TYPE_CHECKING:
    from .qwen_vl import FolderJudge

TEXT_TOKENS = 200
"""Longest question with its chat template, in tokens."""
_TEXT, _VISION = (7, 3), (10, 3)
"""Numbers per token that a layer keeps for its backward pass, in widths and in inner widths."""
_PIXEL = 64
"""Bytes of a pixel while it is resized and cut into patches."""
_MARGIN = 2
"""What is asked for is so many times the count: a little idle memory costs less than none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """One of a judge's two stacks. Example: ``language, vision = towers_of(judge, pixels)``."""

    tokens: int
    layers: int
    width: int
    """Numbers per token between two layers."""
    layer: int
    """Numbers per token that a layer keeps for its backward pass."""


def towers_of(judge: FolderJudge, pixels: int) -> tuple[Tower, Tower]:
    """Return the language model, asked about every dimension, and the vision tower of an image.

    Args:
        judge: The judge; its weights are not read.
        pixels: Of what it is shown as one image, before it is enlarged or shrunk.
    """
    values = read_json(judge_folder(judge.config.folder) / "config.json")
    text, vision = values.get("text_config", values), values.get("vision_config", {})
    # Qwen2-VL names its vision widths differently.
    width = vision.get("embed_dim", vision.get("hidden_size", 1280))
    inner = vision.get("intermediate_size", int(width * vision.get("mlp_ratio", 4)))
    merged = _judged(judge, pixels) // judge.patches.factor**2
    most = max(len(spec.dimensions) for spec in TASKS.values())
    language = Tower(
        tokens=most * (2 * merged + TEXT_TOKENS),
        layers=text["num_hidden_layers"],
        width=text["hidden_size"],
        layer=_TEXT[0] * text["hidden_size"] + _TEXT[1] * text["intermediate_size"],
    )
    vision = Tower(
        tokens=merged * judge.patches.merge_size**2,
        layers=vision.get("depth", 32),
        width=width,
        layer=_VISION[0] * width + _VISION[1] * inner,
    )
    return language, vision


def judging_bytes(judge: FolderJudge, pixels: int, rows: int = 1) -> int:
    """Return the activations of judging without gradient, in bytes; leans towards too much.

    Args:
        judge: The one that is asked.
        pixels: Of what it is shown as one image.
        rows: Pairs that are judged at once.
    """
    language, vision = towers_of(judge, pixels)
    # The towers take turns, and a layer is forgotten when the next one works.
    numbers = max(language.tokens * language.layer, 2 * vision.tokens * vision.layer)
    images = 2 * rows * _judged(judge, pixels) * _PIXEL
    num_bytes = rows * numbers * judge.component.dtype.itemsize + images
    return _MARGIN * num_bytes + judge.expansion_bytes


def saved_bytes(judge: FolderJudge, pixels: int, recompute: bool) -> int:
    """Return what one pair keeps for the backward pass, in bytes.

    Args:
        judge: The one that is asked.
        pixels: Of what it is shown as one image.
        recompute: Whether a layer keeps only its input.
    """
    towers = towers_of(judge, pixels)
    if recompute:
        numbers = sum(t.tokens * (t.layers * t.width + t.layer) for t in towers)
    else:
        numbers = sum(t.tokens * t.layers * t.layer for t in towers)
    return numbers * judge.component.dtype.itemsize


def _judged(judge: FolderJudge, pixels: int) -> int:
    return max(judge.patches.min_pixels, min(pixels, judge.patches.max_pixels))
