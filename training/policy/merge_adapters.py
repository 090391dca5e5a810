"""All adapters of a model as one LoRA: exactly the same model from one file.

Low-rank terms add up by standing side by side: the sum of ``s_i B_i A_i`` is ``[s_1 B_1, s_2 B_2]
[A_1; A_2]``. So the rounds of a policy that was trained in several become one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...fill.checkpoint.adapters import PREFIX, Adapter
from ...fill.io.json_text import label_of
from ...fill.models import FillModels
from ..runs.files import write_tensors
from .adapter_file import adapter_contents, read_about


def save_adapters(
    path: Path, models: FillModels, dtype: torch.dtype, overwrite: bool = False
) -> None:
    """Write a model's adapters, at their strengths, as one file.

    Raises:
        ValueError: The model has no adapter, or the file is there and another.
        WriteError: The file cannot be written.
    """
    if not models.adapters:
        raise ValueError(
            "this model has no adapter to save; connect the model output of OneReward Train (mode "
            "lora) or of OneReward Load Adapter"
        )
    tensors, metadata = adapter_contents(
        merge_adapters(models.adapters), _about(models), dtype=dtype
    )
    if path.exists():
        if _holds(path, tensors, metadata):
            return
        if not overwrite:
            raise ValueError(
                f"{label_of(path)} is there already and another adapter; choose another name, or "
                "turn overwrite on"
            )
    write_tensors(path, tensors, metadata)


def _holds(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return (
                file.metadata() == metadata
                and set(file.keys()) == tensors.keys()
                and all(torch.equal(file.get_tensor(name), t) for name, t in tensors.items())
            )
    except SafetensorError:
        return False


def merge_adapters(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """Return ``<layer>.lora_A.weight`` and ``<layer>.lora_B.weight``, float32, of their sum.

    Every layer gets the largest rank; what one lacks is filled with zeros, which change nothing.
    """
    terms: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter in adapters:
        for layer in _layers(adapter):
            down, up = (adapter.weights[f"{PREFIX}{layer}.lora_{k}.weight"].float() for k in "AB")
            terms.setdefault(layer, []).append((down, up * adapter.strength))
    rank = max(sum(down.shape[0] for down, _ in pairs) for pairs in terms.values())
    merged = {}
    for layer, pairs in terms.items():
        down, up = torch.cat([d for d, _ in pairs]), torch.cat([u for _, u in pairs], dim=1)
        missing = rank - down.shape[0]
        merged[f"{layer}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, missing))
        merged[f"{layer}.lora_B.weight"] = torch.nn.functional.pad(up, (0, missing))
    return merged


def _layers(adapter: Adapter) -> list[str]:
    ending = ".lora_A.weight"
    keys = [key for key in adapter.weights if key.endswith(ending)]
    return [key.removeprefix(PREFIX).removesuffix(ending) for key in keys]


def _about(models: FillModels) -> dict[str, Any]:
    descriptions = [
        {"file": a.label, "strength": a.strength, **read_about(a.path)} for a in models.adapters
    ]
    if len(descriptions) == 1 and descriptions[0]["strength"] == 1.0:
        return descriptions[0]
    return {"recipe": models.recipe.name, "adapters": descriptions}
