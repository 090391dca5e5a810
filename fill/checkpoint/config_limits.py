"""Configs of models from anywhere, bounded before a library builds a model of them.

A single absurd number of layers or of words would fill the memory or never end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.files import TensorInfo
from ..io.json_text import label_of, quote, read_json, shorten
from ..json_config import make_record

ADVICE = "download it again"
_LAYERS = r"num_(\w+_)?layers|depth|layers_per_block"
_WIDTHS = (
    r"hidden_size|out_hidden_size|intermediate_size|vocab_size|d_model|d_ff|embed_dim|"
    r"block_out_channels|latent_channels"
)
_LIMITS = [
    (re.compile(pattern), low, high)
    for pattern, low, high in (
        (_LAYERS, 0, 512),
        (r"num_(\w+_)?heads|\w*patch_size|\w*merge_size|norm_num_groups", 1, 1024),
        (r"vocab_size", 1, 1 << 22),
        (r"\w+_token_id", -1, 1 << 22),
        (rf"{_WIDTHS}|d_kv|\w*head_dim|\w+_(attention|projection)_dim|\w*channels", 1, 1 << 18),
        (r"num_train_timesteps", 1, 100_000),
        (r"max_position_embeddings|\w*_seq_len|window_size|relative_attention_\w+", 1, 1 << 24),
        (r"(min|max)_pixels|shortest_edge|longest_edge", 1, 1 << 32),
    )
]
"""Names of whole numbers, and what they may be."""
_MAY_BE_NULL = (
    r"\w+_token_id|out_channels|num_key_value_heads|num_decoder_layers|\w*head_dim|sample_size|"
    r"\w+_(attention|projection)_dim|(min|max)_pixels|shortest_edge|longest_edge|window_size"
)
"""Those for which null stands for the model's own choice."""
MAX_NUMBER, MAX_ENTRIES = 10**12, 1 << 16
"""Of any other number, and of any list or object."""
MAX_SHIFT = 100
"""Of a schedule."""
MAX_PATTERN = 2000
"""Characters of a regular expression."""
_NESTED_REPEATS = re.compile(r"[*+}][^()]*\)[*+{]")
"""What makes one take time without end."""
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "transformer": ("in_channels", "joint_attention_dim", "pooled_projection_dim"),
    "vae": ("latent_channels", "block_out_channels", "scaling_factor"),
    "text_encoder": ("hidden_size", "max_position_embeddings", "vocab_size"),
    "text_encoder_2": ("d_model", "vocab_size"),
}
"""What the config of each component of a fill model has to say."""


def read_model_config(path: Path, *required: str) -> dict[str, Any]:
    """Read the JSON config of a model or of a part of one.

    Args:
        path: The file.
        *required: Keys that it must have.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no JSON object, lacks a key, or has a number that no model has.

    Example: ``read_model_config(folder / "config.json")["in_channels"]``.
    """
    values = read_json(path)
    try:
        for key in required:
            if values.get(key) is None:
                raise ValueError(f"it lacks {key}")
        for name, value in _entries(values):
            _check_entry(name, value)
        channels = values.get("block_out_channels", [1])
        if not isinstance(channels, list) or not channels:
            raise ValueError(f"block_out_channels is {quote(channels)}, but a list is expected")
    except ValueError as error:
        raise ValueError(
            shorten(f"{label_of(path)} describes no model that can be built: {error}; {ADVICE}")
        ) from error
    return values


def check_sizes(label: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Raise ValueError if a config speaks of more layers or wider ones than there are weights.

    Example: ``check_sizes("vae", config, read_weights(folder))``.
    """
    longest = max((axis for info in tensors.values() for axis in info.shape), default=0)
    for name, value in _entries(config):
        is_layers = bool(re.fullmatch(_LAYERS, name))
        limit = len(tensors) if is_layers else longest
        numbers = value if isinstance(value, list) else [value]
        if (is_layers or re.fullmatch(_WIDTHS, name)) and any(
            isinstance(number, int) and number > limit for number in numbers
        ):
            raise ValueError(
                f"the config of {label} has {name} {quote(value)}, but its weights have "
                f"{'only' if is_layers else 'no axis beyond'} {limit}; {ADVICE}"
            )


def check_vision(label: str, config: Mapping[str, Any], processor: Mapping[str, Any]) -> None:
    """Raise ValueError unless a vision-language model and its image processor are of one kind.

    Args:
        label: What messages call the model.
        config: Its config, read by :func:`read_model_config`.
        processor: What its image processor's file says.
    """
    # What the model says of itself.
    vision, text = config.get("vision_config"), config.get("text_config", config)
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise ValueError(f"the config of {label} describes no vision model; {ADVICE}")
    try:
        make_record(LanguageSizes, text, ignores_unknown=True)
        make_record(VisionSizes, vision, ignores_unknown=True)
    except ValueError as error:
        raise ValueError(shorten(f"the config of {label}: {error}; {ADVICE}")) from error
    vocabulary, token = text.get("vocab_size"), config.get("image_token_id")
    if not isinstance(token, int) or not 0 <= token < (vocabulary or 1 << 22):
        raise ValueError(
            f"the config of {label} has image_token_id {quote(token)}, but a number below "
            f"vocab_size {quote(vocabulary)} is expected; {ADVICE}"
        )
    # What both say of the patches.
    pairs = {"patch_size": "patch_size", "merge_size": "spatial_merge_size"}
    pairs["temporal_patch_size"] = "temporal_patch_size"
    for name, key in pairs.items():
        image_value, model_value = processor.get(name), vision.get(key)
        if None not in (image_value, model_value) and image_value != model_value:
            raise ValueError(
                f"the image processor of {label} has {name} {quote(image_value)}, but its model "
                f"has {quote(model_value)}; {ADVICE}"
            )
    # The scale of the colours.
    for name in ("image_mean", "image_std"):
        numbers = processor.get(name)
        entries = numbers if isinstance(numbers, list) else []
        if len(entries) != 3 or not all(type(n) in (int, float) and abs(n) < 1000 for n in entries):
            raise ValueError(
                f"the image processor of {label} has {name} {quote(numbers)}, but three numbers "
                f"are expected; {ADVICE}"
            )
    if min(processor["image_std"]) <= 0:
        raise ValueError(f"the image processor of {label} has an image_std of 0; {ADVICE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSizes:
    """What memory is planned by. Example: ``LanguageSizes(hidden_size=8, num_hidden_layers=2)``."""

    hidden_size: int
    num_hidden_layers: int
    model_type: str = ""
    intermediate_size: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    head_dim: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
    linear_num_value_heads: int = 0
    linear_value_head_dim: int = 0
    layer_types: tuple[str, ...] | None = None
    full_attention_interval: int = 4

    def __post_init__(self) -> None:
        """Refuse what has no size."""
        has_heads = self.num_attention_heads and self.num_key_value_heads
        if "qwen3" in self.model_type and not has_heads:
            raise ValueError("it lacks num_attention_heads or num_key_value_heads")
        if self.num_experts and self.num_experts_per_tok and not self.moe_intermediate_size:
            raise ValueError("it lacks moe_intermediate_size")
        if self.full_attention_interval < 1:
            raise ValueError(f"full_attention_interval is {self.full_attention_interval}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSizes:
    """The same of a vision tower. Example: ``VisionSizes(depth=32, hidden_size=1280)``."""

    depth: int = 32
    embed_dim: int = 1280
    hidden_size: int = 1280
    intermediate_size: int = 0
    mlp_ratio: float = 4.0


def check_peft_config(label: str, config: Mapping[str, Any], max_rank: int = 1 << 16) -> None:
    """Raise ValueError for ranks, alphas and patterns of PEFT's config that cannot be meant.

    Args:
        label: What messages call the adapter.
        config: The contents of ``adapter_config.json``.
        max_rank: Largest rank that there are weights for.
    """
    # Collect numbers, with whether they are ranks, and regular expressions.
    numbers = {name: (config.get(name, 1), name == "r") for name in ("r", "lora_alpha")}
    patterns = [p for p in (config.get("target_modules"),) if isinstance(p, str)]
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(name) or {}
        if not isinstance(pattern, dict) or len(pattern) > MAX_ENTRIES:
            raise ValueError(f"{label} has {quote(pattern)} as {name}; {ADVICE}")
        numbers |= {key: (value, name == "rank_pattern") for key, value in pattern.items()}
        patterns += pattern
    # Check them.
    for name, (number, is_rank) in numbers.items():
        is_number = type(number) is int or (type(number) is float and not is_rank)
        high = max_rank if is_rank else 1 << 16
        if not is_number or not 0 < number <= high:
            raise ValueError(
                f"{label} has {quote(number)} as {quote(name)} in its PEFT config, but a number "
                f"above 0 and up to {high} is expected; {ADVICE}"
            )
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN or _NESTED_REPEATS.search(pattern):
            raise ValueError(f"{label} has {quote(pattern)} as a pattern of names; {ADVICE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What of a scheduler's config is used. Example: ``SchedulerConfig(shift=3.0)``."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: bool = False
    shift_terminal: float | None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    stochastic_sampling: bool = False
    time_shift_type: str = "exponential"

    def __post_init__(self) -> None:
        """Refuse what no schedule can be made of."""
        for name in ("shift", "base_shift", "max_shift"):
            if not 0 < getattr(self, name) <= MAX_SHIFT:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but a number above 0 and up to {MAX_SHIFT} "
                    "is expected"
                )
        if not 0 <= (self.shift_terminal or 0) < 1:
            raise ValueError(f"shift_terminal is {self.shift_terminal}, but 0 to 1 is expected")
        if self.time_shift_type not in ("exponential", "linear"):
            raise ValueError(f"time_shift_type is {quote(self.time_shift_type)}")
        if self.base_image_seq_len == self.max_image_seq_len:
            raise ValueError(
                f"base_image_seq_len and max_image_seq_len are {self.max_image_seq_len}"
            )


def read_scheduler_config(path: Path) -> dict[str, Any]:
    """Read a scheduler's config; raises as :func:`read_model_config`."""
    values = read_model_config(path)
    try:
        make_record(SchedulerConfig, values, ignores_unknown=True)
    except ValueError as error:
        raise ValueError(shorten(f"{label_of(path)} is no schedule: {error}; {ADVICE}")) from error
    values.pop("dtype", None)  # diffusers would pass it on to a schedule, which has none
    return values


def _entries(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every entry, those of objects in it, too."""
    if len(values) > MAX_ENTRIES:
        raise ValueError(f"it has {len(values):,} entries")
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _entries(value)
        else:
            yield name, value


def _check_entry(name: str, value: Any) -> None:
    limits = _limits(name)
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) > MAX_ENTRIES:
        raise ValueError(f"{quote(name)} has {len(numbers):,} entries")
    low, high = limits or (-MAX_NUMBER, MAX_NUMBER)
    for number in numbers:
        is_null = number is None and (not limits or bool(re.fullmatch(_MAY_BE_NULL, name)))
        is_typed = type(number) is int or not limits or is_null
        if not is_typed or (isinstance(number, (int, float)) and not low <= number <= high):
            kind = "a whole number" if limits else "a number"
            raise ValueError(
                f"{quote(name)} is {quote(number)}, but {kind} from {low} to {high} is expected"
            )


def _limits(name: str) -> tuple[int, int] | None:
    return next(((low, high) for p, low, high in _LIMITS if p.fullmatch(name)), None)
