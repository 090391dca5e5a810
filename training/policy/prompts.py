"""Encoded prompts on the disk, so that the text encoders run once and leave memory for good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ...fill.host import Host
from ...fill.io.files import load_tensors
from ...fill.models import FillModels
from ...fill.sampling.guidance import Prompt
from ...fill.sampling.text import encode_prompts
from ...fill.task import TASKS, Task
from ..data.conditions import Condition
from ..runs.files import write_tensors

_AT_ONCE = 8
"""Prompts per call of the encoders; a cancel waits for one call."""


class PromptStore:
    """A folder of encoded prompts: a safetensors file with ``sequence`` and ``pooled`` for each.

    Example: ``PromptStore(run / "prompts", models).prepare(["a red circle"], host)``.
    """

    def __init__(self, folder: Path, models: FillModels) -> None:
        self._folder = folder
        self._models = models

    def prepare(self, texts: Iterable[str], host: Host) -> None:
        """Encode what is new, then take the text encoders out of memory."""
        new = [text for text in dict.fromkeys(texts) if not self._path(text).is_file()]
        for start in range(0, len(new), _AT_ONCE):
            batch = new[start : start + _AT_ONCE]
            for text, prompt in zip(batch, encode_prompts(self._models, batch, host), strict=True):
                self._write(text, prompt)
        for encoder in (self._models.text_encoder, self._models.text_encoder_2):
            encoder.forget()

    def get(self, text: str) -> Prompt:
        """Return a prepared prompt, on the CPU."""
        tensors = load_tensors(self._path(text))
        return Prompt(sequence=tensors["sequence"], pooled_embeds=tensors["pooled"])

    def _write(self, text: str, prompt: Prompt) -> None:
        tensors = {"sequence": prompt.sequence, "pooled": prompt.pooled_embeds}
        write_tensors(self._path(text), tensors)

    def _path(self, text: str) -> Path:
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self._folder / f"{digest}.safetensors"


def model_prompt(condition: Condition) -> str:
    """Return the prompt of a condition for the model, as :class:`FillRequest` makes it.

    Raises:
        ValueError: The task needs a prompt and there is none; names the condition.
    """
    spec = TASKS[condition.task]
    if condition.task is Task.TEXT:
        return condition.full_prompt
    if condition.prompt.strip() and spec.takes_prompt:
        return condition.prompt.strip()
    if spec.fixed_prompt is None:
        raise ValueError(
            f"condition {condition.name} has no prompt, which {condition.task.value} needs; add "
            "one to conditions.jsonl"
        )
    return spec.fixed_prompt
