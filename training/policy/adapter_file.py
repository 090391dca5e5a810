"""The trained LoRA as a file that diffusers, PEFT and ComfyUI's own loader read alike.

For every layer it holds ``transformer.<layer>.lora_A.weight`` and ``.lora_B.weight``. Its header
has diffusers' metadata and, as JSON under ``onereward``, how it was made::

    {"base": "FLUX.1-Fill-dev", "base_adapters": [], "recipe": "...", "objective": "reward",
     "algorithm": "fixed", "step": 400, "judges": ["my-judge"], "left_out": [],
     "scores": {"eval": 0.58, "eval.fill.structure": 0.61}}

ComfyUI ignores diffusers' metadata and takes the strength as 1 where a file has no alpha, so the
scale is multiplied into ``lora_B`` and alpha equals the rank. Source: ComfyUI, ``comfy/lora.py``;
diffusers, ``FluxLoraLoaderMixin.save_lora_weights``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...fill.io.files import read_header
from ...fill.io.json_text import parse_object
from ..runs.files import write_tensors
from .weights import NAME

KEY = "onereward"
"""Of our metadata in the file's header."""
_PEFT_KEY = "lora_adapter_metadata"


def write_adapter(
    path: Path,
    weights: Mapping[str, Tensor],
    about: Mapping[str, Any],
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a LoRA; the file is whole or not there.

    Args:
        path: A ``.safetensors`` file.
        weights: By parameter name of the transformer, float32, all of one rank.
        about: What it is and how it was made, JSON.
        scale: Alpha / rank.
        dtype: Data type in the file.

    Raises:
        WriteError: The file cannot be written.
    """
    write_tensors(path, *adapter_contents(weights, about, scale, dtype))


def adapter_contents(
    weights: Mapping[str, Tensor],
    about: Mapping[str, Any],
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a LoRA's file; arguments as for :func:`write_adapter`."""
    tensors = {
        _public_name(name): _scaled(name, weight, scale).cpu().to(dtype).contiguous()
        for name, weight in weights.items()
    }
    # PEFT's description of the adapter, as diffusers writes it.
    modules = sorted({name.split(".lora_")[0].removeprefix("transformer.") for name in tensors})
    rank = next(t.shape[0] for name, t in tensors.items() if ".lora_A." in name)
    peft = {"r": rank, "lora_alpha": rank, "target_modules": modules}
    metadata = {
        "format": "pt",
        KEY: json.dumps(dict(about)),
        _PEFT_KEY: json.dumps({f"transformer.{k}": v for k, v in peft.items()}),
    }
    return tensors, metadata


def read_about(path: Path) -> dict[str, Any]:
    """Return what :func:`write_adapter` wrote about the file; empty for files of others."""
    text = read_header(path)[1].get(KEY, "{}")
    try:
        return parse_object(text)
    except ValueError as error:
        raise ValueError(f"the notes in {path.name} are damaged: {error}") from error


def _scaled(name: str, weight: Tensor, scale: float) -> Tensor:
    return (weight * scale if ".lora_B." in name else weight).detach()


def _public_name(name: str) -> str:
    return "transformer." + name.replace(f".{NAME}.", ".")
