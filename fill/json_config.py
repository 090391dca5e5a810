"""The base of every config: fields with limits and help, and their JSON.

A file holds every value, defaults too, so that a run replays after a default has changed::

    {"format": 1, "split": "all", "num_conditions": 0, "seed": 0}
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .io.json_text import label_of, parse_json, quote, read_text, shorten

FORMAT = 1
SHARE = {"min": 0.0, "max": 1.0, "step": 0.01}
"""Limits of a share or a probability."""

MAX_WHOLE = 2**63
"""Beyond every whole number of a config or record."""

_Config = TypeVar("_Config", bound="JsonConfig")
_Record = TypeVar("_Record")


def setting(default: Any, help: str, **limits: Any) -> Any:
    """Declare a config field with help and limits: ``min``, ``max``, ``step`` or ``options``."""
    return field(default=default, metadata={"help": help, **limits})


def _check_field(name: str, value: Any, default: Any, limits: Any) -> None:
    if isinstance(default, bool) != isinstance(value, bool):
        raise ValueError(f"{name} is {quote(value)}, but true or false is expected")
    if isinstance(default, int) and not isinstance(value, int):
        raise ValueError(f"{name} is {quote(value)}, but a whole number is expected")
    if isinstance(default, float) and not (
        isinstance(value, (int, float)) and math.isfinite(value)
    ):
        raise ValueError(f"{name} is {quote(value)}, but a finite number is expected")
    if isinstance(default, str) and not isinstance(value, str):
        raise ValueError(f"{name} is {quote(value)}, but text is expected")
    if "options" in limits and value not in limits["options"]:
        raise ValueError(_choose(name, value, limits["options"]))
    low, high = limits.get("min"), limits.get("max")
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(f"{name} is {quote(value)}, but {low} to {high} is expected")


def _choose(name: str, value: Any, options: Iterable[str]) -> str:
    return shorten(f"{name} is {quote(value)}; choose one of: {', '.join(options)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonConfig:
    """A config that checks its limits and reads and writes JSON.

    Example: ``EvalConfig.from_json('{"format": 1, "split": "dev"}').split``.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for the first field that breaks its declared type, limits or options."""
        for f in fields(self):
            _check_field(f.name, getattr(self, f.name), f.default, f.metadata)

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> None:
        """Raise ValueError for the first of some fields' values that breaks its own limits.

        Example: ``FillConfig.check({"steps": 1001})`` raises; other fields may be missing.
        """
        for f in fields(cls):
            if f.name in values:
                _check_field(f.name, values[f.name], f.default, f.metadata)

    def to_json(self) -> str:
        """Return every value, defaults too, as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls: type[_Config], text: str) -> _Config:
        """Parse JSON text.

        Raises:
            ValueError: The text is no JSON object or a newer version's, or as :meth:`from_values`.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"the config cannot be used: {error}") from error
        written = values.pop("format", FORMAT) if isinstance(values, dict) else FORMAT
        if written != FORMAT:
            raise ValueError(
                f"config format is {quote(written)}, but this version reads {FORMAT}; update this "
                "pack, or let a node of this version write the config"
            )
        return cls.from_values(values)

    @classmethod
    def from_values(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """Make a config of JSON values, whose lists become tuples and objects configs.

        Raises:
            ValueError: A key is unknown or missing, or a value is of another type or outside its
                limits.
        """
        return make_record(cls, values)

    @classmethod
    def load(cls: type[_Config], path: Path) -> _Config:
        """Read a config file; FileNotFoundError if there is none, else as :meth:`from_json`."""
        if not path.exists():
            raise FileNotFoundError(f"there is no config file {label_of(path)}")
        text = read_text(path)
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(shorten(f"{label_of(path)}: {error}")) from error


def make_record(
    cls: type[_Record], values: Mapping[str, Any], *, ignores_unknown: bool = False
) -> _Record:
    """Make a dataclass of JSON values, whose lists become tuples, objects configs, texts enums.

    Args:
        cls: A dataclass whose fields are plain values, enums, configs, and tuples or mappings.
        values: A JSON object.
        ignores_unknown: Whether keys that are no fields are passed over: later versions may have
            more of them.

    Raises:
        ValueError: A key is unknown or missing, or a value is of another type or outside its
            limits.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{cls.__name__} is {quote(values)}, but an object of settings is expected"
        )
    names: dict[str, Any] = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(values) - set(names))
    if unknown and not ignores_unknown:
        raise ValueError(
            f"{cls.__name__} has unknown settings {quote(unknown)}; correct or remove them, or "
            "update this pack if a newer version wrote the file"
        )
    required = {n for n, f in names.items() if f.default is f.default_factory is MISSING}
    missing = sorted(required - set(values))
    if missing:
        raise ValueError(f"settings {quote(missing)} are missing; {cls.__name__} needs them")
    hints = _type_hints(cls)
    return cls(**{n: _parse(n, v, hints[n]) for n, v in values.items() if n in names})


_type_hints = cache(get_type_hints)
"""Of a class; a file may hold thousands of its records."""


def _parse(name: str, value: Any, hint: Any) -> Any:
    """Return a field's value of a JSON value; ValueError if that is of another type."""
    if isinstance(hint, type) and issubclass(hint, JsonConfig):
        return hint.from_values(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        members = {member.value: member for member in hint}
        if not isinstance(value, str) or value not in members:
            raise ValueError(_choose(name, value, members))
        return members[value]
    if not _is_of(value, hint):
        raise ValueError(f"{name} is {quote(value)}, but {_kind(hint)} is expected")
    return tuple(value) if isinstance(value, list) else value


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object",
    Mapping: "an object",
}


def _is_of(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is types.UnionType:
        return any(_is_of(value, part) for part in parts)
    if kind is types.NoneType:
        return value is None
    if kind is tuple:
        is_list = isinstance(value, (list, tuple))
        if not is_list or (parts[-1] is not Ellipsis and len(value) != len(parts)):
            return False
        return all(_is_of(item, parts[0]) for item in value)
    if kind not in _KINDS:
        return True
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if isinstance(value, int) and abs(value) >= MAX_WHOLE:
        return False
    if isinstance(value, Mapping) and parts:
        return kind in (dict, Mapping) and all(_is_of(v, parts[1]) for v in value.values())
    return isinstance(value, (int, float) if kind is float else kind)


def _kind(hint: Any) -> str:
    """Say in words what a field takes."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is types.UnionType:
        return " or ".join(_kind(part) for part in parts)
    if kind is types.NoneType:
        return "null"
    if kind is not tuple:
        inner = f" with {_kind(parts[1])} at each key" if parts and parts[1] is not Any else ""
        return _KINDS.get(kind, "any value") + inner
    entry = _kind(parts[0])
    count = "" if parts[-1] is Ellipsis else f"{len(parts)} "
    return f"a list of {count}entries, each {entry},"
