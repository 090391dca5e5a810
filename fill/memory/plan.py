"""How much memory each stage takes, what to do when it is short, and what to tell the user.

The estimates serve planning only and lean towards too much: a wrong one costs speed, no image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ...kernels import device_refusal
from ..host import Host
from ..models import FillModels
from ..wrapped_host import WrappedHost
from .components import Component

logger = logging.getLogger("onereward.fill")
T = TypeVar("T")

MAX_TOKENS_PER_CALL = 16384
"""More rows than this fill a GPU anyway; smaller calls react to cancel sooner."""
MAX_ROWS = 16
STATES_PER_BLOCK = 30
"""Tensors as large as the hidden states alive at the peak of an eager block, fp32 RoPE included."""
TEXT_TOKEN_BYTES = 64 * 1024
"""A layer of a text encoder holds some ten states; the widest is 10240, in the middle of T5."""
MODULATION_LAYERS = ("norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear")
TILE_PIXELS = 2 << 20
"""Images with more pixels are encoded and decoded in tiles."""


class NotEnoughMemory(torch.OutOfMemoryError):
    """Even the leanest plan does not fit. Example: ``except NotEnoughMemory as error: ...``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a run is cut into model calls, and where the transformer's weights are meanwhile.

    Example: ``Plan(rows=1, batched_cfg=True, tiled_vae=False).leaner()``.
    """

    rows: int
    """Images per model call."""
    batched_cfg: bool
    """Negative and positive prompt in one call."""
    tiled_vae: bool
    """Encode and decode in tiles."""
    weight_bytes: int | None = None
    """What the transformer's weights take on the device while its blocks pass through; None: all of
    them stay there."""
    least_bytes: int | None = None
    """The least ``weight_bytes`` that works; None: blocks cannot or must not pass through."""

    def leaner(self) -> Plan | None:
        """Return the plan to try after an out-of-memory error; None if there is none."""
        lean = replace(self, rows=1, batched_cfg=False, tiled_vae=True)
        if lean == self:
            lean = replace(self, weight_bytes=self.least_bytes)
        return None if lean == self else lean

    def describe(self) -> str:
        """Describe what is lean about the plan."""
        images = "one image" if self.rows == 1 else f"{self.rows} images"
        calls = f"{images} and {'both prompts' if self.batched_cfg else 'one prompt'} at a time"
        if self.weight_bytes is None:
            return calls
        return f"{calls}, {_size(self.weight_bytes)} of the transformer on the device"


def sample_bytes(models: FillModels, rows: int, num_tokens: int) -> int:
    """Return the activation memory of one transformer call without gradient, in bytes."""
    config = models.transformer_config
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = num_tokens + models.recipe.max_sequence_length
    return rows * tokens * width * models.dtype.itemsize * STATES_PER_BLOCK


def beside_bytes(models: FillModels) -> int:
    """Return what the transformer needs beside its weights and activations, in bytes.

    Its adapters, and the largest packed layer while it is used.
    """
    values = sum(value.numel() for adapter in models.adapters for value in adapter.weights.values())
    return values * models.dtype.itemsize + models.transformer.expansion_bytes


def text_bytes(component: Component, num_tokens: int) -> int:
    """Return what a text encoder needs beside its weights, in bytes."""
    return num_tokens * TEXT_TOKEN_BYTES + component.expansion_bytes


def vae_bytes(models: FillModels, pixels: int) -> int:
    """Return the activation memory of one VAE call, in bytes: some full-size maps."""
    channels = models.vae_config["block_out_channels"]
    return min(pixels, TILE_PIXELS) * sum(channels[:2]) * models.dtype.itemsize * 4


def make_plan(
    models: FillModels, host: Host, num_tokens: int, num_rows: int, uses_cfg: bool, cfg_mode: str
) -> Plan:
    """Choose placement of the weights, rows per call and batched or sequential guidance.

    By the memory that the host says is free, headers and configs; no weight has to be loaded yet.

    Args:
        models: The fill model.
        host: Where it will run.
        num_tokens: Packed latents of the largest image.
        num_rows: Images of the run.
        uses_cfg: Whether the negative prompt is used.
        cfg_mode: ``auto``, ``batched`` or ``sequential``.
    """
    tokens = num_tokens + models.recipe.max_sequence_length
    passes = 2 if uses_cfg else 1
    # Memory for the weights of one row's call, and what may leave the device.
    row_bytes = max(sample_bytes(models, 1, num_tokens), 1)
    transformer, beside = models.transformer, beside_bytes(models)
    budget = weight_budget(transformer, models, host, row_bytes + beside)
    least = transformer.least_bytes if _may_stream(models, host) else None
    free = host.free_bytes(transformer) - beside
    if budget is not None:
        # Streamed, the weights get what the calls leave: few large calls fetch them less often.
        free += transformer.num_bytes - (least or 0)
    fits = max(free // row_bytes, 1)
    batched = uses_cfg and (cfg_mode == "batched" or (cfg_mode == "auto" and fits >= 2))
    if batched:
        fits = max(fits // passes, 1)
    # Rows per call, and what these leave for the weights.
    rows = max(min(num_rows, fits, MAX_TOKENS_PER_CALL // (tokens * passes), MAX_ROWS), 1)
    if budget is not None:
        calls = rows * (passes if batched else 1)
        budget = weight_budget(transformer, models, host, calls * row_bytes + beside)
    pixels = num_tokens * models.multiple**2
    return Plan(
        rows=rows,
        batched_cfg=batched,
        tiled_vae=pixels > TILE_PIXELS,
        weight_bytes=budget,
        least_bytes=least,
    )


def weight_budget(component: Component, models: FillModels, host: Host, room: int) -> int | None:
    """Return what a component's weights may take on the device; None if all of them do, and stay.

    Args:
        component: The transformer or a text encoder.
        models: Whose component it is; its settings can forbid streaming, or ask for it.
        host: Where it will run.
        room: Bytes that the computation needs beside the weights.
    """
    if component.least_bytes is None or not _may_stream(models, host):
        return None
    if models.offload == "on":
        return component.least_bytes
    modulation = _modulation_bytes(models, host) if component is models.transformer else 0
    left = host.free_bytes(component) + modulation - room
    if left >= 0:
        return None
    return max(component.least_bytes, component.num_bytes - modulation + left)


def _may_stream(models: FillModels, host: Host) -> bool:
    if models.offload == "auto":
        return host.device.type != "cpu"  # whose memory holds all weights anyway
    return models.offload == "on"


def _modulation_bytes(models: FillModels, host: Host) -> int:
    """Return what :func:`~.modulation.place_modulation` can still leave in host memory."""
    source, component = models.transformer_source, models.transformer
    if models.kernels == "off" or source.is_quantised:
        return 0
    if device_refusal(host.device.type, host.device.index) is not None:
        return 0
    adapted = {key.split(".lora_")[0] for adapter in models.adapters for key in adapter.weights}
    total = 0
    for name, info in models.transformer_tensors.items():
        layer = name.rpartition(".")[0]
        if layer.endswith(MODULATION_LAYERS) and f"transformer.{layer}" not in adapted:
            total += info.numel * models.dtype.itemsize
    already = source.num_bytes(models.dtype) - component.num_bytes
    return max(total - already, 0)


@contextmanager
def placed(
    component: Component, host: Host, activation_bytes: int, weight_bytes: int | None
) -> Iterator[None]:
    """Have a component on the device inside the context, or let its blocks pass through it."""
    if weight_bytes is None:
        with host.resident(component, activation_bytes=activation_bytes):
            yield
    else:
        with host.streamed(component, weight_bytes=weight_bytes, activation_bytes=activation_bytes):
            yield


def limited(models: FillModels, host: Host) -> Host:
    """Return the host as the model's settings let it be used."""
    limit = int(models.memory_limit * 2**30)
    return WrappedHost(host, max_bytes=limit) if limit else host


def summary(models: FillModels, host: Host) -> str:
    """Describe where all weights sit when one image is made; nothing is loaded."""
    host = limited(models, host)
    side, uses_cfg = models.recipe.target_size, models.recipe.true_cfg != 1.0
    tokens = (side // models.multiple) ** 2
    plan = make_plan(models, host, tokens, 1, uses_cfg, "auto")
    room = sample_bytes(models, 2 if plan.batched_cfg else 1, tokens) + beside_bytes(models)
    transformer, free = models.transformer, host.free_bytes()
    weights, where = transformer.num_bytes, "stays on the device"
    if plan.weight_bytes is not None:
        weights = plan.weight_bytes
        where = f"passes through the device, {_size(weights)} at a time"
    elif host.free_bytes(transformer) < room:
        weights -= _modulation_bytes(models, host)
    encoders = models.text_encoder, models.text_encoder_2
    stages = [(weights, room), *_other_stages(models, host, side, 2 if uses_cfg else 1)]
    peak = max(weights + room for weights, room in stages)
    if host.device.type == "cpu":  # whose memory holds all components in the end
        components = transformer, *encoders, models.vae
        loaded = sum(p.num_bytes for p in components)
        peak = loaded + max(room for _, room in stages)
        free = host.free_bytes(*components) + loaded
    text = f"{side} pixels: the transformer ({_size(transformer.num_bytes)}) {where}; "
    text += "the text encoders "
    text += f"({_size(sum(encoder.num_bytes for encoder in encoders))}) come before it; "
    text += f"{_size(peak)} of {_size(free)} free memory at the peak"
    return text if peak <= free else f"{text}: does not fit; {_ADVICE}"


def _other_stages(
    models: FillModels, host: Host, side: int, num_texts: int
) -> Iterator[tuple[int, int]]:
    """Yield what text encoders and VAE take on the device: for weights, and beside them."""
    for component in (models.text_encoder, models.text_encoder_2):
        room = text_bytes(component, num_texts * models.recipe.max_sequence_length)
        budget = weight_budget(component, models, host, room)
        yield component.num_bytes if budget is None else budget, room
    yield models.vae.num_bytes, vae_bytes(models, side**2)


def with_retry(plan: Plan, run: Callable[[Plan], T], host: Host) -> T:
    """Run a plan; after an out-of-memory error run the next leaner one, once.

    Raises:
        NotEnoughMemory: It does not fit either; the message says what to change.
    """
    with explain_out_of_memory(_advice(host)):
        try:
            return run(plan)
        except (RuntimeError, MemoryError) as error:
            lean = plan.leaner()
            if lean is None or not is_out_of_memory(error):
                raise
        host.notify(f"out of memory: trying once more with {lean.describe()}")
        return run(lean)


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Raise NotEnoughMemory, with what to change, where the block runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(advice) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an allocation failure of any device from other errors."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator; and CUDA's driver, whose error torch raises as an AcceleratorError.
    texts = ("can't allocate memory", "CUDA error: out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


_ADVICE = (
    "choose an fp8 or GGUF file, lower target_size in the settings, or free memory by unloading "
    "other models"
)


def _advice(host: Host) -> str:
    return (
        f"not enough memory on {host.device} even for one image and one prompt at a time; lower "
        "target_size in the settings, keep crop_to_context on, use a smaller image, choose an "
        "fp8 or GGUF file, or free memory by unloading other models"
    )


def _size(num_bytes: int) -> str:
    mib = num_bytes / 2**20
    return f"{mib / 1024:.1f} GB" if mib >= 100 else f"{mib:.0f} MB"
