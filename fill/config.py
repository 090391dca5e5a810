"""Every setting of the engine, with limits, help and JSON; the settings node is made from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

FORMAT = 1
MAX_SIDE = 16384
"""Longest side of an image or canvas, in pixels."""
RECIPE = -1
"""Numeric settings with this value follow the recipe of the loaded model, or the task's default."""
RECIPE_TEXT = "-1"
"""The same for the negative prompt, where an empty text already means no negative prompt."""

CFG_MODES = ("auto", "batched", "sequential")
KERNEL_MODES = ("auto", "on", "off")
OFFLOAD_MODES = ("auto", "on", "off")
PACKED_PRECISIONS = ("fp8", "nf4")
"""Those under which frozen matrices stay packed and are expanded as they are used."""
PRECISIONS = ("auto", "bf16", "fp16", "fp32", *PACKED_PRECISIONS)
RECIPE_CHOICES = ("auto", "OneReward", "FLUX.1 Fill", "bundled")

PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
"""The separately loaded models of a fill model."""

ConfigT = TypeVar("ConfigT")


def setting(default: Any, help: str, **limits: Any) -> Any:
    """Declare a config field with help and limits: ``min``, ``max``, ``step`` or ``options``."""
    return field(default=default, metadata={"help": help, **limits})


def check_limits(config: Any) -> None:
    """Raise ValueError for the first field that breaks its declared type, limits or options."""
    for f in fields(config):
        _check_field(f.name, getattr(config, f.name), f.default, f.metadata)


def _check_field(name: str, value: Any, default: Any, limits: Any) -> None:
    if isinstance(default, bool) != isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, but true or false is expected")
    if isinstance(default, int) and not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}, but a whole number is expected")
    if isinstance(default, float) and not (
        isinstance(value, (int, float)) and math.isfinite(value)
    ):
        raise ValueError(f"{name} is {value!r}, but a finite number is expected")
    if isinstance(default, str) and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, but text is expected")
    if "options" in limits and value not in limits["options"]:
        raise ValueError(f"{name} is {value!r}; choose one of: {', '.join(limits['options'])}")
    low, high = limits.get("min"), limits.get("max")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name} is {value}, but {low} to {high} is expected")


def to_json(config: Any) -> str:
    """Write all values, defaults too, so that a run replays after a default has changed."""
    return json.dumps({"format": FORMAT, **asdict(config)}, indent=2)


def from_json(cls: type[ConfigT], text: str) -> ConfigT:
    """Read a config that :func:`to_json` wrote.

    Raises:
        ValueError: Unknown keys, a newer format, or a value outside its limits.
    """
    values = json.loads(text)
    number = values.pop("format", FORMAT)
    if number != FORMAT:
        raise ValueError(
            f"{cls.__name__} has format {number}, but this version reads {FORMAT}; update this "
            "pack, or write the settings anew"
        )
    return make_config(cls, values)


def make_config(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Make a config of JSON values, whose lists become tuples.

    Raises:
        ValueError: Unknown keys, or a value of another type or outside its limits.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{cls.__name__} is {values!r}, but an object of settings is expected")
    unknown = sorted(set(values) - {f.name for f in fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise ValueError(
            f"{cls.__name__} has unknown keys: {', '.join(unknown)}; remove them, or update this "
            "pack if a newer version wrote them"
        )
    check_types(cls, values)
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def check_types(cls: type[Any], values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first JSON value that is not of its field's type."""
    hints = get_type_hints(cls)
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            raise ValueError(f"{name} is {value!r}, but {_kind(hints[name])} is expected")


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object of settings",
}


def _is_of(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        is_list = isinstance(value, (list, tuple))
        if not is_list or (parts[-1] is not Ellipsis and len(value) != len(parts)):
            return False
        return all(_is_of(item, parts[0]) for item in value)
    if kind not in _KINDS:
        return True
    wanted = (int, float) if kind is float else kind
    return isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))


def _kind(hint: Any) -> str:
    """Say in words what a field takes."""
    if get_origin(hint) is not tuple:
        return _KINDS[get_origin(hint) or hint]
    parts = get_args(hint)
    each = _KINDS[get_origin(parts[0]) or parts[0]]
    number = "" if parts[-1] is Ellipsis else f"{len(parts)} "
    return f"a list of {number}entries, each {each},"


@dataclass(frozen=True, slots=True, kw_only=True)
class FillConfig:
    """How to sample and how to put the result back. The order of the fields is a promise."""

    steps: int = setting(
        RECIPE, "Sampling steps; -1 = as the model's recipe says.", min=-1, max=1000, step=1
    )
    true_cfg: float = setting(
        -1.0,
        "Scale between the negative and the positive velocity (true classifier-free guidance); "
        "1 = off, half the time; -1 = as the model's recipe says.",
        min=-1.0,
        max=30.0,
        step=0.1,
    )
    guidance: float = setting(
        -1.0,
        "Value of the model's own guidance embedding; -1 = as the model's recipe says.",
        min=-1.0,
        max=100.0,
        step=0.1,
    )
    negative_prompt: str = setting(
        RECIPE_TEXT,
        "What the image should not be, used when true_cfg is not 1; -1 = as the recipe says.",
    )
    num_candidates: int = setting(
        1,
        "Images made per input image; candidate n uses seed + n, so each can be made alone.",
        min=1,
        max=64,
        step=1,
    )
    denoise: float = setting(
        1.0,
        "Share of the schedule that is run: 1 starts from pure noise, less starts from the noised "
        "source image.",
        min=0.01,
        max=1.0,
        step=0.01,
    )
    shift: float = setting(
        -1.0,
        "Shift of the noise schedule towards noise; 1 = none; -1 = from the image size, as the "
        "model's scheduler does.",
        min=-1.0,
        max=20.0,
        step=0.05,
    )
    cfg_mode: str = setting(
        "auto",
        "Negative and positive prompt in one batched call (faster), one after the other (half the "
        "memory), or whichever fits.",
        options=CFG_MODES,
    )
    crop_to_context: bool = setting(
        True,
        "Sample a crop around the mask at the model's best size and stitch it back, so that a "
        "small mask in a large image gets full detail.",
    )
    context_factor: float = setting(
        2.0,
        "Side of that crop, in sides of the mask's bounding box.",
        min=1.0,
        max=20.0,
        step=0.1,
    )
    target_size: int = setting(
        RECIPE,
        "Side in pixels of a square of as many pixels as the crop is sampled at; -1 = the model's own.",
        min=-1,
        max=4096,
        step=16,
    )
    grow: int = setting(
        RECIPE,
        "Pixels by which the mask grows before it is repainted (extend: overlap with the source); "
        "-1 = as the task says.",
        min=-1,
        max=512,
        step=1,
    )
    feather: int = setting(
        RECIPE,
        "Pixels inside the grown mask over which the new image fades into the old; -1 = as the task "
        "says.",
        min=-1,
        max=512,
        step=1,
    )
    fill_holes: bool = setting(
        True, "Close holes that a brush left in the mask, up to a tenth of the painted area."
    )
    colour_correction: float = setting(
        1.0,
        "Share of the tone shift, as seen in a ring around the mask, that is taken back; 0 = off.",
        min=0.0,
        max=1.0,
        step=0.05,
    )
    preserve_unmasked: bool = setting(
        False,
        "While sampling, keep what is outside of the mask on the source's own way from noise to "
        "image. Off, as the models were trained: they paint it, too, and it is replaced in the "
        "end.",
    )

    def __post_init__(self) -> None:
        """Refuse what is out of limits."""
        check_limits(self)
        for name in ("true_cfg", "guidance", "shift"):
            if -1.0 < getattr(self, name) < 0.0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but -1 or at least 0 is expected"
                )
        if self.steps == 0:
            raise ValueError("steps is 0, but -1 (recipe) or at least 1 is expected")
        if self.shift == 0.0:
            raise ValueError("shift is 0, but -1 (from the image size) or more than 0 is expected")
        if 0 <= self.target_size < 16:
            raise ValueError(
                f"target_size is {self.target_size}, but -1 or at least 16 is expected"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which fill model to load and how."""

    folder: str = ""
    """Folder in diffusers format with ``model_index.json``; empty: every part is given apart."""
    transformer: str = ""
    """Folder or file of a transformer that replaces the one in ``folder``; empty: none."""
    recipe: str = setting(
        "auto",
        "Settings the model was trained for; auto = by the model's folder. Choose one if the "
        "folder was renamed.",
        options=RECIPE_CHOICES,
    )
    precision: str = setting(
        "auto",
        "Data type of the weights; auto = bf16 on a GPU, fp32 on a CPU. fp8, nf4 = as auto, but "
        "the transformer's blocks are packed into a half or a quarter of bf16: a little off, "
        "slower, and adapters train beside them.",
        options=PRECISIONS,
    )
    kernels: str = setting(
        "auto",
        "Fused GPU kernels for the transformer: meant to be faster, equal to rounding. auto = "
        "where a supported NVIDIA GPU and Triton are found; on = or an error that says what is "
        "missing.",
        options=KERNEL_MODES,
    )

    vae: str = ""
    """File of a VAE that replaces the one in ``folder``; empty: none."""
    text_encoder: str = ""
    """File of a CLIP-L that replaces the one in ``folder``; empty: none."""
    text_encoder_2: str = ""
    """File of a T5 encoder that replaces the one in ``folder``; empty: none."""
    tokenizer: str = ""
    """Folder of CLIP's tokenizer, for a ``text_encoder`` that needs another than ``folder`` has."""
    tokenizer_2: str = ""
    """Folder of T5's tokenizer, likewise."""
    offload: str = setting(
        "auto",
        "Whether blocks of the transformer wait in the computer's memory and pass through the "
        "GPU as they are needed: slower, but a 24 GB model runs on a 12 GB card. auto = as many "
        "as do not fit; on = all.",
        options=OFFLOAD_MODES,
    )
    memory_limit: float = setting(
        0.0,
        "GB of GPU memory that an edit may use, weights included; 0 = all that is free.",
        min=0.0,
        max=1024.0,
        step=0.5,
    )

    def __post_init__(self) -> None:
        """Refuse what is out of limits."""
        check_limits(self)
        missing = [name for name in PARTS if not getattr(self, name)]
        if not self.folder and missing:
            raise ValueError(
                f"no model folder given, and no file for {', '.join(missing)}; choose a model in "
                "the loader, or a file for each part"
            )
