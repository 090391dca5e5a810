"""Schema inputs made from the fields of a config class: same names, order, defaults and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

from comfy_api.latest import io


def config_inputs(config: type[Any], names: Sequence[str] = ()) -> list[io.Input]:
    """Return an input for each field of a config, or for the named ones.

    All are optional: an API job may name only what it changes, and a field that a later version
    appends does not break the jobs of today.

    Args:
        config: Dataclass whose fields were declared with :func:`~..fill.config.setting`.
        names: Fields to take, in the order of the class; empty: all.
    """
    return [_field_input(f) for f in fields(config) if not names or f.name in names]


def _field_input(f: Field[Any]) -> io.Input:
    common: dict[str, Any] = {
        "display_name": f.name,
        "default": f.default,
        "optional": True,
        "tooltip": f.metadata["help"],
    }
    limits = {key: f.metadata[key] for key in ("min", "max", "step") if key in f.metadata}
    if "options" in f.metadata:
        return io.Combo.Input(f.name, options=list(f.metadata["options"]), **common)
    if isinstance(f.default, bool):
        return io.Boolean.Input(f.name, **common)
    if isinstance(f.default, int):
        # A seed of data or of a run stays: the front end changes it after a run if nothing is said.
        return io.Int.Input(f.name, control_after_generate=False, **limits, **common)
    if isinstance(f.default, float):
        return io.Float.Input(f.name, **limits, **common)
    return io.String.Input(f.name, **common)
