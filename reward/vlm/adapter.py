"""Trained adapters of a judge: PEFT folders of safetensors, attached when the judge is loaded.

Beside PEFT's own two files lies ``onereward.json``: which question and which view of the images
the adapter was trained for::

    {"format": 1, "template_version": 1, "base": "Qwen2.5-VL-7B-Instruct", "steps": 400,
     "view": "crop", "max_pixels": 262144}

Adapters from elsewhere have none, and are taken as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...fill.checkpoint.config_limits import check_peft_config
from ...fill.io.files import TensorInfo, read_header
from ...fill.io.json_text import label_of, quote, read_json
from ..judge import JudgeError
from ..query import TEMPLATE_VERSION

CONFIG, WEIGHTS, NOTES = "adapter_config.json", "adapter_model.safetensors", "onereward.json"
NAME = "default"
"""PEFT's name of the one adapter on a judge."""
_PREFIX = "base_model.model."
# Modules had shorter names when older adapters were written.
_RENAMED = {"model.layers.": "model.language_model.layers.", "visual.": "model.visual."}


def check_adapter(folder: Path) -> dict[str, TensorInfo]:
    """Return the tensors of an adapter, without loading anything.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: No LoRA adapter, or a damaged file.
        JudgeError: It was trained for another question than this version asks.
    """
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{label_of(folder)} is a {quote(config.get('peft_type'))} adapter, but a LoRA adapter "
            "is expected"
        )
    tensors, _ = read_header(folder / WEIGHTS)
    ranks = [min(info.shape, default=0) for info in tensors.values()]
    check_peft_config(label_of(folder / CONFIG), config, max(ranks, default=1))
    version = read_notes(folder).get("template_version", TEMPLATE_VERSION)
    if version != TEMPLATE_VERSION:
        raise JudgeError(
            f"{label_of(folder)} was trained for version {quote(version)} of the judge's question, "
            f"but this version asks version {TEMPLATE_VERSION}; train the adapter again"
        )
    return tensors


def read_notes(folder: Path) -> dict[str, Any]:
    """Return what training noted about an adapter or a judge; empty for one from elsewhere."""
    return read_json(folder / NOTES) if (folder / NOTES).exists() else {}


def write_notes(folder: Path, **notes: Any) -> None:
    """Note how an adapter or a judge was trained."""
    values = {"format": 1, "template_version": TEMPLATE_VERSION, **notes}
    (folder / NOTES).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def attach_adapter(model: nn.Module, folder: Path) -> None:
    """Attach an adapter to a freshly loaded judge, in float32 as it was trained.

    Raises:
        JudgeError: It is for another model.
    """
    from peft import LoraConfig
    from safetensors.torch import load_file

    config: Any = LoraConfig.from_pretrained(str(folder))
    config.lora_dropout = 0.0  # adapters of others may have one, and would answer by chance
    inject_lora(model, config)
    slots = adapter_parameters(model)
    filled: set[str] = set()
    with torch.no_grad():
        for key, value in load_file(folder / WEIGHTS).items():
            name = _parameter_name(key, slots)
            if name is None or slots[name].shape != value.shape:
                raise JudgeError(
                    f"{folder} is for another model: this judge has no parameter for {key} of "
                    f"shape {list(value.shape)}"
                )
            slots[name].data = value.to(slots[name].device, torch.float32)
            filled.add(name)
    if missing := sorted(set(slots) - filled):
        raise JudgeError(f"{folder} lacks {missing[0]}; the adapter is incomplete")


def inject_lora(model: nn.Module, config: Any) -> None:
    """Add untrained LoRA layers to a judge and make them active.

    By PEFT itself: transformers' own ``add_adapter`` may ask for a PEFT that does not exist yet.

    Args:
        model: A model without adapters.
        config: PEFT's ``LoraConfig``.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, NAME)


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write a judge's adapter as a PEFT folder, without our notes."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    judge: Any = model
    state = get_peft_model_state_dict(judge, adapter_name=NAME, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_PREFIX + key: value.contiguous() for key, value in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    judge.peft_config[NAME].save_pretrained(folder)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapter's parameters by name, those that PEFT has added to the model."""
    return {n: p for n, p in model.named_parameters() if f".{NAME}." in n and "lora_" in n}


def _parameter_name(key: str, slots: dict[str, nn.Parameter]) -> str | None:
    module, _, end = key.removeprefix(_PREFIX).partition(".lora_")
    kind, _, leaf = end.partition(".")
    names = [module, *(new + module.removeprefix(old) for old, new in _RENAMED.items())]
    candidates = (f"{name}.lora_{kind}.{NAME}.{leaf}" for name in names)
    return next((name for name in candidates if name in slots), None)
