"""The four edits, with their fixed prompts, dimensions and mask defaults: the one table.

Source: OneReward, sec. 3 and table 1; the prompt wording is that of the released checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Task(str, Enum):
    """What the user asks for. Example: ``TASKS[Task('fill')].dimensions``."""

    FILL = "fill"
    EXTEND = "extend"
    REMOVE = "remove"
    TEXT = "text"


class Dimension(str, Enum):
    """An axis of quality of two images. Example: ``dimensions_for(Task.FILL, 'a red kite')``."""

    TEXT_ALIGNMENT = "text_alignment"
    CONSISTENCY = "consistency"
    STRUCTURE = "structure"
    AESTHETICS = "aesthetics"
    REMOVAL_QUALITY = "removal_quality"


_FOUR = (
    Dimension.TEXT_ALIGNMENT,
    Dimension.CONSISTENCY,
    Dimension.STRUCTURE,
    Dimension.AESTHETICS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What a task needs and how it is judged. Example: ``TASKS[Task.REMOVE].fixed_prompt``."""

    fixed_prompt: str | None
    """Sent to the model when the user gives no prompt; None: the user must give one."""
    takes_prompt: bool
    """Whether the user's own prompt is used at all."""
    dimensions: tuple[Dimension, ...]
    """What its results are judged on when the user gave a prompt."""
    grow: float
    """Growth of the mask (extend: the overlap) by default, in pixels of a context of 1024."""
    feather: float
    """Default width of the soft border inside the grown mask, in the same unit."""


TASKS: dict[Task, TaskSpec] = {
    Task.FILL: TaskSpec(
        fixed_prompt=None, takes_prompt=True, dimensions=_FOUR, grow=8.0, feather=8.0
    ),
    # The overlap lets the blend happen over known pixels, so that no line shows at the old border.
    Task.EXTEND: TaskSpec(
        fixed_prompt="high-definition, perfect composition",
        takes_prompt=True,
        dimensions=_FOUR,
        grow=32.0,
        feather=24.0,
    ),
    # Shadows and soft edges reach beyond what people paint over.
    Task.REMOVE: TaskSpec(
        fixed_prompt="remove",
        takes_prompt=False,
        dimensions=(Dimension.REMOVAL_QUALITY,),
        grow=12.0,
        feather=8.0,
    ),
    Task.TEXT: TaskSpec(
        fixed_prompt=None, takes_prompt=True, dimensions=_FOUR, grow=8.0, feather=8.0
    ),
}


def dimensions_for(task: Task, prompt: str) -> tuple[Dimension, ...]:
    """Return the dimensions a result is judged on; text alignment needs a prompt of the user's.

    Source: OneReward, table 1 (extension without a prompt is judged on the other three).
    """
    spec = TASKS[task]
    if prompt.strip():
        return spec.dimensions
    return tuple(d for d in spec.dimensions if d is not Dimension.TEXT_ALIGNMENT)


def text_prompt(text: str, text_style: str = "") -> str:
    """Build the prompt of the text task, one line of the image per line of text.

    Args:
        text: The text to be written; empty lines are skipped.
        text_style: How the letters look, for example ``white neon letters``; may be empty.

    Raises:
        ValueError: There is no text, or it contains a double quote (it ends the quotation).
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("text is empty; type the text that should appear inside the mask")
    if any('"' in line for line in lines):
        raise ValueError(
            "text contains a double quote, which would end the quotation; use ' instead"
        )
    quoted = ", and in the next line ".join(f'"{line}"' for line in lines)
    text_style = text_style.strip()
    return f"the words {quoted}, {text_style}" if text_style else f"the words {quoted}"
