"""What schemas share: inputs from the fields of a config class, single inputs, search aliases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

from comfy_api.latest import io

from ..fill.config import MAX_SIDE
from ..fill.io.json_text import quote
from ..fill.task import Task
from .socket_types import DatasetSocket, JudgeSocket, PreferencesSocket


def search_aliases(*words: str) -> dict[str, Any]:
    """Return the argument of ``io.Schema`` for other words to find a node by; newer ComfyUI only.

    Example: ``io.Schema(node_id="OneRewardFill", **search_aliases("inpainting"), ...)``.
    """
    is_known = any(f.name == "search_aliases" for f in fields(io.Schema))
    return {"search_aliases": list(words)} if is_known else {}


def advanced(*inputs: io.Input, names: Sequence[str] = ()) -> list[io.Input]:
    """Mark inputs that few people need; a newer front end folds them away.

    Example: ``inputs=[*advanced(*config_inputs(ModelConfig, ("offload",)))]``.

    Args:
        inputs: In the node's order.
        names: Those of them to mark; empty: all.
    """
    for item in inputs:
        if hasattr(item, "advanced") and (not names or item.id in names):
            item.advanced = True  # type: ignore[attr-defined]
    return list(inputs)


def output(kind: Any, name: str, tooltip: str, label: str = "") -> io.Output:
    """Return an output; its label is its name unless another is given.

    Example: ``output(io.Image, "result", "The edited images.", "image")``.
    """
    return kind.Output(name, display_name=label or name, tooltip=tooltip)


def config_inputs(
    config: type[Any], names: Sequence[str] = (), leave_out: Sequence[str] = ()
) -> list[io.Input]:
    """Return an input for each setting of a config, or for the named ones: same order and limits.

    All are optional: an API job may name only what it changes, and a field that a later version
    appends does not break the jobs of today.

    Args:
        config: Dataclass; its settings are declared with :func:`~..fill.json_config.setting`.
        names: Settings to take, in the order of the class; empty: all.
        leave_out: Settings not to take.
    """
    settings = [f for f in fields(config) if "help" in f.metadata and f.name not in leave_out]
    return [_field_input(f) for f in settings if not names or f.name in names]


def _field_input(f: Field[Any]) -> io.Input:
    common: dict[str, Any] = {
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


def run_inputs(seed_tooltip: str) -> list[io.Input]:
    """Return the inputs of every run that goes on where it stopped: seed and time limit."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**31 - 1,
            control_after_generate=False,
            optional=True,
            tooltip=seed_tooltip,
        ),
        io.Float.Input(
            "max_minutes",
            default=600.0,
            min=0.1,
            max=1e6,
            step=0.5,
            optional=True,
            tooltip="Stops after this time with a checkpoint; run again to go on.",
        ),
    ]


def judge_input(tooltip: str, name: str = "judge", optional: bool = False) -> io.Input:
    """Return an input for a judge."""
    return JudgeSocket.Input(name, optional=optional, tooltip=tooltip)


def task_input(tooltip: str) -> io.Input:
    """Return the choice of one of the four tasks."""
    names = [task.value for task in Task]
    return io.Combo.Input("task", options=names, default=names[0], tooltip=tooltip)


def parse_task(name: str) -> Task:
    """Return the task; combos are not checked by every version of ComfyUI."""
    names = [task.value for task in Task]
    if name not in names:
        raise ValueError(f"task is {quote(name)}; choose one of: {', '.join(names)}")
    return Task(name)


def side_input(name: str, tooltip: str, default: int = 0, optional: bool = False) -> io.Input:
    """Return a number of new pixels on one side of an image."""
    return io.Int.Input(
        name, default=default, min=0, max=MAX_SIDE, step=8, optional=optional, tooltip=tooltip
    )


def text_input(
    name: str,
    tooltip: str,
    optional: bool = False,
    *,
    multiline: bool = True,
    chooses: bool = False,
) -> io.Input:
    """Return a text, empty at first.

    Example: ``text_input("prompt", "What to paint.", chooses=True)``.

    Args:
        name: Of the input.
        tooltip: What it means.
        optional: Whether a job can leave it out.
        multiline: Whether it has several lines.
        chooses: Whether the front end chooses one of ``{a|b}`` for each job, as for CLIP.
    """
    return io.String.Input(
        name,
        multiline=multiline,
        default="",
        optional=optional,
        tooltip=tooltip,
        dynamic_prompts=chooses,
    )


def preferences_input(tooltip: str, optional: bool = False) -> io.Input:
    """Return an input for preference data."""
    return PreferencesSocket.Input("preferences", tooltip=tooltip, optional=optional)


def dataset_input(tooltip: str) -> io.Input:
    """Return an input for an edit data set."""
    return DatasetSocket.Input("dataset", tooltip=f"{tooltip} From OneReward Edit Dataset.")
