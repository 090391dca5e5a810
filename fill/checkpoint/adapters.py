"""LoRA adapters: read, checked, attached and detached without reloading the transformer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..io.files import TensorInfo, read_header
from .identify import describe, packing_of
from .lora_file import OTHER_WAY, PEFT_CONFIG, PEFT_WEIGHTS, PREFIX, read_lora
from .stored_tensors import open_checkpoint

logger = logging.getLogger("onereward.fill")
ENDS = (".safetensors", ".sft")
"""How files of this format are called."""
INPUT_LAYER = "x_embedder"
LYCORIS = (".lokr_", ".hada_", ".oft_")
UNETS = ("lora_unet_down_blocks_", "lora_unet_input_blocks_", "unet.down_blocks.")
"""How the layers of SDXL and Stable Diffusion are called in LoRA files."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """One LoRA with its strength. Example: ``read_adapter(path, 0.8, tensors)``."""

    name: str
    """Unique per file and version of it; PEFT knows the adapter by this name."""
    path: Path
    """The file."""
    label: str
    """The file's name, for messages."""
    strength: float
    weights: Mapping[str, torch.Tensor]
    """``transformer.<module>.lora_A.weight`` and ``lora_B``, on the CPU; their product is what is
    added to the module's weight at strength 1."""


def read_adapter(path: Path, strength: float, base: Mapping[str, TensorInfo]) -> Adapter:
    """Read a LoRA of a FLUX.1 transformer, under whatever names its trainer gave the layers.

    Args:
        path: A safetensors file, or a folder that PEFT saved.
        strength: Factor on its effect; 1 = as trained, 0 = none, negative = reversed.
        base: Tensors of the transformer it has to fit.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No safetensors file, no FLUX LoRA, or one for another model.
    """
    if not -10.0 <= strength <= 10.0:
        raise ValueError(f"strength is {strength}, but -10 to 10 is expected")
    if path.is_dir():
        path /= PEFT_WEIGHTS
    if path.suffix not in ENDS:
        raise ValueError(
            f"{path.name} is no .safetensors file, and other formats can run code when opened; get "
            "the safetensors version of this LoRA"
        )
    _check_kind(path)
    weights = _widen_input(path.name, read_lora(path, base), base)
    _check_fit(path.name, weights, base)
    # The same weights under another config of PEFT are another adapter.
    files = [path, path.with_name(PEFT_CONFIG)]
    stats = [file.stat() for file in files if file.is_file()]
    identity = f"{path.resolve()}|" + "|".join(f"{s.st_size}|{s.st_mtime_ns}" for s in stats)
    return Adapter(
        name="lora_" + hashlib.blake2b(identity.encode(), digest_size=8).hexdigest(),
        path=path,
        label=path.name,
        strength=strength,
        weights=weights,
    )


def _check_kind(path: Path) -> None:
    """Raise ValueError, with what it is, for a file that is no LoRA or one of another family."""
    keys = list(read_header(path)[0])
    names = "\n".join(keys)
    if packing := packing_of(keys):
        kind = f"a model {packing}"
    elif any(mark in names for mark in LYCORIS):
        raise ValueError(
            f"{path.name} is a LyCORIS adapter (LoKr, LoHa or OFT), but only plain low-rank pairs "
            f"can be loaded here; {OTHER_WAY}"
        )
    elif any(key.startswith(UNETS) for key in keys):
        kind = "a LoRA of SDXL or Stable Diffusion"
    elif "lora" not in names.lower():
        kind = describe(open_checkpoint(path))[0]
    else:
        return
    raise ValueError(f"{path.name} is {kind}, but a LoRA of a FLUX.1 transformer is needed here")


def _widen_input(
    name: str, weights: dict[str, torch.Tensor], base: Mapping[str, TensorInfo]
) -> dict[str, torch.Tensor]:
    """Let a LoRA of FLUX.1-dev, which takes the latents alone, fit the wider input of Fill.

    The latents come first among Fill's channels; zeros for the others leave them as they are.
    """
    key = f"{PREFIX}{INPUT_LAYER}.lora_A.weight"
    target = base.get(f"{INPUT_LAYER}.weight")
    if key not in weights or target is None:
        return weights
    channels, columns = weights[key].shape[1], target.shape[1]
    outputs = base.get("proj_out.weight")
    if channels == columns or outputs is None or channels != outputs.shape[0]:
        return weights
    logger.info(
        "%s: made for FLUX.1-dev; its input layer is widened from %d to %d channels with zeros",
        *(name, channels, columns),
    )
    return weights | {key: torch.nn.functional.pad(weights[key], (0, columns - channels))}


def _check_fit(
    name: str, weights: Mapping[str, torch.Tensor], base: Mapping[str, TensorInfo]
) -> None:
    """Raise ValueError if a layer takes another input; outputs were checked by the reader."""
    for key, value in weights.items():
        module, _, end = key.removeprefix(PREFIX).partition(".lora_")
        columns = base[f"{module}.weight"].shape[1]
        if end.startswith("A") and value.shape[1] != columns:
            raise ValueError(
                f"{name} is for another model: {module} takes {columns} channels here, but the "
                f"LoRA has {value.shape[1]} for it"
            )
    if not weights:
        raise ValueError(f"{name} holds no LoRA weights for the transformer; choose a FLUX LoRA")


def apply_adapters(transformer: nn.Module, adapters: Sequence[Adapter]) -> None:
    """Make exactly these adapters active on the shared transformer.

    What is on it already stays; what is no longer wanted is removed; with none left the transformer
    is as it was before the first. Strengths of an adapter that is given twice add up.
    """
    model: Any = transformer
    by_name = {a.name: a for a in adapters}
    present = set(getattr(model, "peft_config", None) or {})
    if not by_name:
        if present:
            model.unload_lora()
        return
    with torch.inference_mode(False), torch.no_grad():
        if removed := present - set(by_name):
            model.delete_adapters(sorted(removed))
        for name in sorted(set(by_name) - present):
            _attach(model, by_name[name])
    strengths = {name: sum(a.strength for a in adapters if a.name == name) for name in by_name}
    model.set_adapters(list(strengths), list(strengths.values()))


def _attach(model: Any, adapter: Adapter) -> None:
    model.load_lora_adapter(
        {k: v.clone() for k, v in adapter.weights.items()},
        prefix=PREFIX.rstrip("."),
        adapter_name=adapter.name,
    )
    # PEFT makes adapters fp32, which would widen the activations of a half-precision model.
    dtype = model.dtype  # of its floating-point weights; packed ones are integers
    for name, parameter in model.named_parameters():
        if f".{adapter.name}." in name:
            parameter.data = parameter.data.to(dtype)
            parameter.requires_grad_(False)
