"""The judge's question, made from task, dimension and prompt.

Source: OneReward, sec. 4.3: the prompt goes in for text alignment only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..fill.task import TASKS, Dimension, Task, dimensions_for

TEMPLATE_VERSION = 1
"""Changes with the wording; judges trained on another version answer another question."""

MAX_PROMPT = 2000
"""Characters of a prompt that the judge reads, as many as FLUX itself reads at most."""

_DIMENSIONS = {
    Dimension.TEXT_ALIGNMENT: "text alignment: shows what the prompt says",
    Dimension.CONSISTENCY: "consistency: colour, texture and light continue across the edit",
    Dimension.STRUCTURE: "structure: shapes and layout are plausible",
    Dimension.AESTHETICS: "aesthetics: looks clean and good",
    Dimension.REMOVAL_QUALITY: "removal quality: the object is gone and the patch is clean",
}

_INSTRUCTIONS = {
    (Task.FILL, True): "Edit the image so that it shows: {prompt}",
    (Task.FILL, False): "Fill the masked area so that it fits the image",
    (Task.EXTEND, True): "Extend the image beyond its borders: {prompt}",
    (Task.EXTEND, False): "Extend the image beyond its borders",
    (Task.REMOVE, True): "Remove from the image: {prompt}",
    (Task.REMOVE, False): "Remove the object and fill in the background",
    (Task.TEXT, True): "Write into the image: {prompt}",
    (Task.TEXT, False): "Write text into the image",
}
"""Each task as an order to edit, with a prompt of the user's and without."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question about a pair. Example: ``Query(Task.FILL, Dimension.STRUCTURE).question()``."""

    task: Task
    dimension: Dimension
    prompt: str = ""
    """The user's prompt; used for text alignment, and refused as empty there."""

    def __post_init__(self) -> None:
        """Refuse dimensions the task is not judged on, and text alignment without a text."""
        if self.dimension not in TASKS[self.task].dimensions:
            options = ", ".join(d.value for d in TASKS[self.task].dimensions)
            raise ValueError(
                f"{self.task.value} is not judged on {self.dimension.value}; choose from: {options}"
            )
        if self.dimension is Dimension.TEXT_ALIGNMENT and not self.prompt.strip():
            raise ValueError("text alignment needs the prompt that the images should follow")

    @property
    def criterion(self) -> tuple[Task, Dimension]:
        """The task and the dimension: the cell of table 1."""
        return self.task, self.dimension

    def question(self) -> str:
        """Return the text of the question, the same for every image pair."""
        sentences = [f"Task: {self.task.value}.", f"Dimension: {_DIMENSIONS[self.dimension]}."]
        if self.dimension is Dimension.TEXT_ALIGNMENT:
            sentences.append(f"Prompt: {self.prompt.strip()[:MAX_PROMPT]}.")
        sentences.append("Is the first image better than the second image? Answer Yes or No.")
        return " ".join(sentences)

    def instruction(self) -> str:
        """Return the edit as an order, which judges made by others are asked about."""
        prompt = self.prompt.strip()[:MAX_PROMPT]
        return _INSTRUCTIONS[self.task, bool(prompt)].format(prompt=prompt)

    @property
    def dimension_text(self) -> str:
        """The dimension in words."""
        return _DIMENSIONS[self.dimension]


def cut_note(queries: Sequence[Query]) -> str:
    """Return a sentence if the judge reads only the start of a prompt, else nothing.

    Example: ``if note := cut_note(queries): host.notify(note)``.
    """
    longest = max((len(q.prompt.strip()) for q in queries), default=0)
    if longest <= MAX_PROMPT:
        return ""
    return (
        f"the prompt has {longest} characters; the judge reads the first {MAX_PROMPT}, so put what "
        "matters there"
    )


def queries_for(task: Task, prompt: str) -> tuple[Query, ...]:
    """Return a query for every dimension the task is judged on with this prompt."""
    return tuple(Query(task, dimension, prompt) for dimension in dimensions_for(task, prompt))
