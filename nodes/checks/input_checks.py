"""What the inputs of a node must be, by its schema: whatever a job or another pack puts there.

ComfyUI itself compares the types of links only. A job may hold any JSON value for any input, and
an output of another pack any object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import torch

from ...fill.config import FillConfig
from ...fill.io.json_text import quote
from ...fill.models import FillModels
from ...fill.native import NativeEdit
from ...fill.request import check_image, check_mask_tensor
from ...reward.preference import PreferenceSet
from ...training.data.conditions import EditDataset

MAX_TEXT = 200_000
"""Characters of a text, of which a model reads some hundred words; tokenizing more takes long."""
_MAX_WHOLE = 2**64 - 1
"""The largest seed."""
MAX_CHOICE = 1000
"""Characters of a choice from a list."""
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, and halves of characters, which no file and no tokenizer takes."""
_FROM_DISK = ("model", "transformer", "vae", "clip", "t5", "adapter", "judge", "images", "folder")
"""Lists of files: one may come while a job waits, so the node itself says what is missing."""


def check_inputs(
    inputs: Iterable[Any] | None, values: Mapping[str, Any], checked: Iterable[str] = ()
) -> None:
    """Check the values of a node that is about to run.

    Example: ``check_inputs(schema.inputs, {"mask": "text"})`` raises.

    Args:
        inputs: Those of the schema; None: none.
        values: What they got; one that is missing has its default.
        checked: Choices that the node checks by itself.

    Raises:
        ValueError: One is of the wrong class, or cannot be used; names it.
    """
    for item in inputs or ():
        if item.id not in values:
            continue
        name, value, kind = item.id, values[item.id], item.get_io_type()
        if kind in _WIDGETS:
            _WIDGETS[kind](name, value)
        elif value is not None or not item.optional:
            _check_socket(name, value, kind)
        options = getattr(item, "options", None)
        if options and name not in (*checked, *_FROM_DISK) and value not in options:
            names = ", ".join(map(str, options))
            raise ValueError(f"{name} is {quote(value)}; choose one of: {names}")


def check_constants(
    inputs: Iterable[Any] | None, values: Mapping[str, Any], checked: Iterable[str] = ()
) -> None:
    """Check what is known before the queue, limits of numbers included; as :func:`check_inputs`.

    The value of a linked input is None.
    """
    items = [item for item in inputs or () if values.get(item.id) is not None]
    check_inputs(items, values, checked)
    for item in items:
        low, high = getattr(item, "min", None), getattr(item, "max", None)
        value = values[item.id]
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"{item.id} is {quote(value)}, but {low} to {high} is expected")


def _refuse(name: str, value: Any, expected: str) -> None:
    raise ValueError(f"{name} is {_shown(value)}, but {expected} is expected")


def _shown(value: Any) -> str:
    """Return a value in a few words."""
    if value is None:
        return "empty"
    if isinstance(value, (str, int, float)):
        return quote(value)
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"of the type {type(value).__name__}"


def _check_whole_number(name: str, value: Any) -> None:
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or abs(int(value)) > _MAX_WHOLE:
        _refuse(name, value, "a whole number of at most 20 digits")


def _check_number(name: str, value: Any) -> None:
    try:
        is_finite = isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        is_finite = False
    if not is_finite:
        _refuse(name, value, "a finite number")


def _check_switch(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        _refuse(name, value, "true or false")


def _check_text(name: str, value: Any, limit: int = MAX_TEXT) -> None:
    if not isinstance(value, str):
        _refuse(name, value, "text")
    if len(value) > limit:
        raise ValueError(f"{name} has {len(value):,} characters, but {limit:,} are the most")
    if match := _UNUSABLE.search(value):
        kind = "a NUL character" if match[0] == "\0" else "half of a character (a lone surrogate)"
        raise ValueError(f"{name} holds {kind} at position {match.start()}; remove it")


def _check_choice(name: str, value: Any) -> None:
    _check_text(name, value, MAX_CHOICE)


_WIDGETS: dict[str, Callable[[str, Any], None]] = {
    "INT": _check_whole_number,
    "FLOAT": _check_number,
    "BOOLEAN": _check_switch,
    "STRING": _check_text,
    "COMBO": _check_choice,
}


def _check_socket(name: str, value: Any, kind: str) -> None:
    if kind in ("IMAGE", "MASK"):
        if not isinstance(value, torch.Tensor):
            _refuse(name, value, f"{kind} (a tensor)")
        (check_image if kind == "IMAGE" else check_mask_tensor)(name, value)
    elif kind in _SOCKETS:
        fits, expected = _SOCKETS[kind]
        if not fits(value):
            _refuse(name, value, expected)


def _is_a(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _has(*methods: str) -> Callable[[Any], bool]:
    """Return a check for objects of any class that have these methods; a class is none."""
    return lambda value: (
        not isinstance(value, type)
        and all(callable(getattr(value, method, None)) for method in methods)
    )


_SOCKETS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "ONEREWARD_FILL_MODEL": (_is_a(FillModels), "a model from OneReward Load Model"),
    "ONEREWARD_SETTINGS": (_is_a(FillConfig), "what OneReward Settings makes"),
    "ONEREWARD_JUDGE": (
        _has("probabilities", "encode_images"),
        "a judge from OneReward Load Judge",
    ),
    "ONEREWARD_DATASET": (_is_a(EditDataset), "a data set from OneReward Edit Dataset"),
    "ONEREWARD_STITCH": (_is_a(NativeEdit), "what OneReward Native Inputs makes"),
    "ONEREWARD_PREFERENCES": (_is_a(PreferenceSet), "data from OneReward Load Preferences"),
    "ONEREWARD_TRAIN_SETTINGS": (_is_a(dict), "what OneReward Train Settings makes"),
    # Other packs have classes of their own for these.
    "MODEL": (
        lambda v: _has("clone")(v) and hasattr(v, "model"),
        "a MODEL from Load Diffusion Model",
    ),
    "CLIP": (_has("clone", "tokenize"), "a CLIP from DualCLIPLoader"),
    "VAE": (_has("encode", "decode"), "a VAE from Load VAE"),
}
"""By socket type: whether an object fits, and what a user should connect."""
