"""How much memory each stage takes, what to do when it is short, and what to tell the user.

The estimates serve planning only and lean towards too much: a wrong one costs speed, no picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from .host import Host
from .models import FillModels

logger = logging.getLogger("onereward.fill")
T = TypeVar("T")

MAX_TOKENS_PER_CALL = 16384
"""More rows than this fill a GPU anyway; smaller calls react to cancel sooner."""
MAX_ROWS = 16
STATES_PER_BLOCK = 30
"""Tensors as large as the hidden states alive at the peak of an eager block, fp32 RoPE included."""
TILE_PIXELS = 2 << 20
"""Pictures with more pixels are encoded and decoded in tiles."""


class NotEnoughMemory(torch.OutOfMemoryError):
    """A run does not fit even under the leanest plan; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a run is cut into model calls."""

    rows: int
    """Pictures per model call."""
    batched_cfg: bool
    """Negative and positive prompt in one call."""
    tiled_vae: bool
    """Encode and decode in tiles."""

    def leaner(self) -> Plan | None:
        """Return the plan to try after an out-of-memory error; None if there is none."""
        lean = replace(self, rows=1, batched_cfg=False, tiled_vae=True)
        return None if lean == self else lean


def sample_bytes(models: FillModels, rows: int, num_tokens: int) -> int:
    """Return the activation memory of one transformer call without gradient, in bytes."""
    config = models.transformer_config
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = num_tokens + models.recipe.max_sequence_length
    return rows * tokens * width * models.dtype.itemsize * STATES_PER_BLOCK


def vae_bytes(models: FillModels, pixels: int) -> int:
    """Return the activation memory of one VAE call, in bytes: some full-size maps."""
    channels = models.vae_config["block_out_channels"]
    return min(pixels, TILE_PIXELS) * sum(channels[:2]) * models.dtype.itemsize * 4


def make_plan(
    models: FillModels, host: Host, num_tokens: int, num_rows: int, uses_cfg: bool, cfg_mode: str
) -> Plan:
    """Choose rows per call and batched or sequential guidance by the free memory."""
    tokens = num_tokens + models.recipe.max_sequence_length
    passes = 2 if uses_cfg else 1
    free = host.free_bytes(models.transformer)
    fits = max(free // max(sample_bytes(models, 1, num_tokens), 1), 1)
    batched = uses_cfg and (cfg_mode == "batched" or (cfg_mode == "auto" and fits >= 2))
    if batched:
        fits = max(fits // passes, 1)
    rows = max(min(num_rows, fits, MAX_TOKENS_PER_CALL // (tokens * passes), MAX_ROWS), 1)
    pixels = num_tokens * models.multiple**2
    return Plan(rows=rows, batched_cfg=batched, tiled_vae=pixels > TILE_PIXELS)


def with_retry(plan: Plan, run: Callable[[Plan], T], host: Host) -> T:
    """Run a plan; after an out-of-memory error run the leanest one once.

    Raises:
        NotEnoughMemory: It does not fit either; says what to change.
    """
    try:
        return run(plan)
    except (RuntimeError, MemoryError) as error:
        lean = plan.leaner()
        if not is_out_of_memory(error):
            raise
        if lean is None:
            raise NotEnoughMemory(_advice(host)) from error
    host.say("out of memory: trying once more with one picture and one prompt at a time")
    try:
        return run(lean)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(_advice(host)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an allocation failure of any device from other errors."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _advice(host: Host) -> str:
    return (
        f"not enough memory on {host.device} even for one picture and one prompt at a time; lower "
        "target_size in the settings, keep crop_to_context on, use a smaller picture, or free "
        "memory by unloading other models"
    )
