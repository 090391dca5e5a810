"""LoRA files of FLUX transformers: whoever trained them, one naming and one scale come out.

Trainers name layers as diffusers or as Black Forest Labs do, where q, k and v are one layer, and
both with dots or underscores behind prefixes of their own. Sources of the names: ComfyUI,
``comfy/lora.py`` and ``comfy/lora_convert.py``; kohya's ``networks/lora_flux.py``; XLabs' x-flux.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..io.files import TensorInfo, load_tensors, read_header
from ..io.json_text import parse_object, read_json
from .config_limits import check_peft_config
from .layouts import original_transformer

PREFIX = "transformer."
METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's config in a file's header."""
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""What a folder holds that PEFT itself saved."""
OTHER_WAY = (
    "for all of it use ComfyUI's own model and LoRA loaders, and connect them by OneReward From "
    "Native"
)
ENDS = {
    ".lora_A": "down",
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora.down.weight": "down",
    ".lora_linear_layer.down.weight": "down",
    ".down.weight": "down",
    ".lora_B": "up",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".lora.up.weight": "up",
    ".lora_linear_layer.up.weight": "up",
    ".up.weight": "up",
    ".alpha": "alpha",
}
"""How the tensors of a layer end; the longest fitting one counts."""
PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "unet.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)
TEXT_ENCODERS = ("lora_te", "text_encoder", "text_model", "clip_l.", "t5xxl.")
OTHER_MATHS = ("dora_scale", "lora_magnitude_vector", ".magnitude", "lora_mid")
OTHER_SPELLINGS = (
    (r"\.processor\.(to_[qkv]|add_[qkv]_proj|to_add_out)_lora$", r".\1"),  # old diffusers
    (r"\.processor\.to_out_lora$", ".to_out.0"),
    (r"(double_blocks.\d+)[._]processor[._]qkv_lora1", r"\1.img_attn.qkv"),
    (r"(double_blocks.\d+)[._]processor[._]qkv_lora2", r"\1.txt_attn.qkv"),
    (r"(double_blocks.\d+)[._]processor[._]proj_lora1", r"\1.img_attn.proj"),
    (r"(double_blocks.\d+)[._]processor[._]proj_lora2", r"\1.txt_attn.proj"),
    (r"(single_blocks.\d+)[._]processor[._]qkv_lora", r"\1.linear1_qkv"),
    (r"(single_blocks.\d+)[._]processor[._]proj_lora", r"\1.linear2"),
)


@dataclass(slots=True)
class _Layer:
    """A layer as files name it: which rows of it are which layers of ours."""

    rows: int
    targets: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


def read_lora(path: Path, base: Mapping[str, TensorInfo]) -> dict[str, torch.Tensor]:
    """Return a LoRA's tensors under diffusers' names, with its own scale multiplied in.

    Args:
        path: A safetensors file that holds low-rank pairs; beside one that PEFT saved lies its
            config, which says the scale.
        base: Tensors of the ``FluxTransformer2DModel`` it is for.

    Returns:
        ``transformer.<module>.lora_A.weight`` ``[rank, in]`` and ``lora_B`` ``[out, rank]``; what
        they add to the module's weight is ``B A``.

    Raises:
        ValueError: A layer that the transformer does not have or has in another size, half a pair,
            or another mathematics than low-rank terms.
    """
    with torch.inference_mode(False), torch.no_grad():
        tensors = _sort(path.name, load_tensors(path))
        scales = _peft_scales(path)
        layers = _layers(base)
        weights: dict[str, torch.Tensor] = {}
        # Some files hold the same layers twice; diffusers' own names win there as they do here.
        for name in sorted(tensors, key=lambda name: name.startswith(PREFIX)):
            pair = _pair(path.name, name, tensors[name], scales)
            weights |= _split(path.name, _short(name), pair, layers)
    return weights


def _sort(label: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors by layer and by what they are: down, up or alpha."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if any(name in key for name in OTHER_MATHS):
            raise ValueError(
                f"{label} is a DoRA or a LoRA of convolutions ({key}), but only plain low-rank "
                f"pairs can be loaded here; {OTHER_WAY}"
            )
        if not torch.isfinite(value.float()).all():
            raise ValueError(
                f"{label} has values that are no finite numbers ({key}); download or train it again"
            )
        if end := _pair_end(key):
            layers.setdefault(key.removesuffix(end), {})[ENDS[end]] = value
    return layers


def left_out(path: Path) -> str | None:
    """Return a sentence on the tensors of a file that :func:`read_lora` does not use; None: all."""
    keys = [key for key in read_header(path)[0] if not _pair_end(key)]
    texts = [key for key in keys if key.startswith(TEXT_ENCODERS)]
    unpaired = [key for key in keys if key not in texts]
    if not keys:
        return None
    kinds = [f"{len(texts)} tensors for text encoders"] if texts else []
    if unpaired:
        kinds.append(f"{len(unpaired)} that are no low-rank pairs (such as {unpaired[0]})")
    return f"{path.name}: {' and '.join(kinds)} are left out; {OTHER_WAY}"


def _pair_end(key: str) -> str:
    """Return how a tensor of a transformer's pair ends, nothing for other tensors."""
    if key.startswith(TEXT_ENCODERS):
        return ""
    return max((end for end in ENDS if key.endswith(end)), key=len, default="")


def _pair(
    label: str,
    name: str,
    tensors: Mapping[str, torch.Tensor],
    scales: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return down and up of a layer; the product is what it adds."""
    if not {"down", "up"} <= set(tensors):
        raise ValueError(
            f"{label} has only {' and '.join(sorted(tensors))} of {name}, but a pair is needed; "
            "download it again"
        )
    down, up = _as_matrix(tensors["down"]), _as_matrix(tensors["up"])
    if down.ndim != 2 or up.ndim != 2 or not down.shape[0] == up.shape[1] > 0:
        raise ValueError(
            f"{label} has {list(down.shape)} and {list(up.shape)} for {name}, which do not fit "
            "together; download it again"
        )
    rank = down.shape[0]
    scale = _peft_scale(scales, name.removeprefix(PREFIX), rank)
    if "alpha" in tensors:
        if tensors["alpha"].numel() != 1:
            raise ValueError(
                f"{label} has an alpha of {list(tensors['alpha'].shape)} for {name}, but one "
                "number is expected; download it again"
            )
        scale = float(tensors["alpha"]) / rank
    return down, up if scale == 1.0 else up.float() * scale


def _as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor.flatten(1)  # some trainers spell a linear layer as a 1x1 convolution
    is_usual = tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return tensor if is_usual else tensor.float()  # fp8 has no arithmetic


def _peft_scales(path: Path) -> dict[str, Any]:
    """Return PEFT's config of the adapter: a file beside it, or what diffusers puts in its header.

    Keys of the header start with the component's name.
    """
    beside = path.with_name(PEFT_CONFIG)
    if path.name == PEFT_WEIGHTS and beside.exists():
        adapter_config = read_json(beside)
    else:
        try:
            header = parse_object(read_header(path)[1].get(METADATA_KEY, "{}"))
        except ValueError as error:
            raise ValueError(
                f"{path.name} has damaged notes in its header ({error}); download it again"
            ) from error
        names = [name for name in header if name.startswith(PREFIX)]
        adapter_config = {name.removeprefix(PREFIX): header[name] for name in names}
    check_peft_config(path.name, adapter_config)
    if adapter_config.get("use_dora"):
        raise ValueError(
            f"{path.name} is a DoRA, but only plain low-rank pairs can be loaded here; {OTHER_WAY}"
        )
    return adapter_config


def _peft_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return what PEFT would multiply a module's term by; 1 without a config."""
    if "lora_alpha" not in config:
        return 1.0
    from peft.utils.other import get_pattern_key

    alphas = config.get("alpha_pattern") or {}
    alpha = float(alphas.get(get_pattern_key(list(alphas), module), config["lora_alpha"]))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _short(name: str) -> str:
    """Return a layer's name without what trainers put before it."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for pattern, original in OTHER_SPELLINGS:
        name = re.sub(pattern, original, name)
    return name


def _layers(base: Mapping[str, TensorInfo]) -> dict[str, _Layer]:
    """Return every layer under both names, with underscores: so all spellings become one."""
    layers: dict[str, _Layer] = {}
    for module, rows in _linears(base):
        layers[_flat(module)] = _Layer(rows, {module: [(0, rows)]})
        for piece in original_transformer(f"{module}.weight", rows):
            name = _flat(piece.key.removesuffix(".weight"))
            original = layers.setdefault(name, _Layer(piece.total))
            original.targets.setdefault(module, []).append((piece.start, piece.stop))
    for name in [name for name in layers if name.endswith("_linear1")]:
        attention = {m: r for m, r in layers[name].targets.items() if ".attn." in m}
        rows = max(stop for ranges in attention.values() for _, stop in ranges)
        layers[f"{name}_qkv"] = _Layer(rows, attention)
    return layers


def _linears(base: Mapping[str, TensorInfo]) -> Iterable[tuple[str, int]]:
    for key, info in base.items():
        if key.endswith(".weight") and len(info.shape) == 2:
            yield key.removesuffix(".weight"), info.shape[0]


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _split(
    label: str,
    name: str,
    pair: tuple[torch.Tensor, torch.Tensor],
    layers: Mapping[str, _Layer],
) -> dict[str, torch.Tensor]:
    """Return a layer's pair as those of our layers; fused ones share what goes down."""
    down, up = pair
    layer = layers.get(_flat(name))
    if layer is None:
        raise ValueError(f"{label} is for another model: this transformer has no layer {name}")
    if up.shape[0] != layer.rows:
        raise ValueError(
            f"{label} is for another model: {name} has {layer.rows} rows here, but the LoRA has "
            f"{up.shape[0]} for it"
        )
    weights = {}
    for module, ranges in layer.targets.items():
        weights[f"{PREFIX}{module}.lora_A.weight"] = down
        rows = [up[start:stop] for start, stop in ranges]
        weights[f"{PREFIX}{module}.lora_B.weight"] = torch.cat(rows)
    return weights
