"""One component of a fill model in a single file: checked from the header, loaded on demand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..io.files import TensorInfo
from .codec import PLAIN, expand, is_quantised, is_readable
from .identify import READABLE, SLOTS, DetectedLayout, identify
from .layouts import (
    Layout,
    TensorSlice,
    gguf_t5,
    original_transformer,
    original_vae,
    same,
    with_prefix,
    without_prefix,
)
from .linear import QuantisedLinear
from .modules import empty_module
from .shapes import make_config
from .stored_tensors import Checkpoint, Reader, StoredTensor, open_checkpoint

SCALES = ("scale_weight", "weight_scale")
"""Names that ComfyUI gives the scale beside an fp8 weight, older and newer."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a stored tensor, with their scale if they have one."""

    stored: StoredTensor
    start: int
    stop: int
    scale: StoredTensor | None


@dataclass(frozen=True, slots=True)
class _Target:
    """One parameter of the model and the rows it is made of."""

    shape: tuple[int, ...]
    rows: tuple[_Rows, ...]
    stays_packed: bool

    @property
    def kind(self) -> str:
        """Type of its stored values."""
        return self.rows[0].stored.info.dtype

    def num_bytes(self, float_bytes: int) -> int:
        """Return the memory it takes once loaded."""
        if not self.stays_packed:
            return math.prod(self.shape) * float_bytes
        packed = sum((r.stop - r.start) * r.stored.row_bytes for r in self.rows)
        return packed + (4 * self.shape[0] if self.rows[0].scale else 0)


class FileComponent:
    """A transformer, VAE or text encoder in a single file.

    Example: ``FileComponent('vae', Path('ae.safetensors')).load(torch.bfloat16)``.

    Args:
        name: Which component of a fill model.
        path: safetensors or GGUF file; any one shard stands for all.
        base: Config of this component in a model folder, with what shapes do not tell; or None.

    Raises:
        FileNotFoundError: The file or a shard is missing.
        ValueError: Damaged, of another kind, incomplete, or in a type that cannot be read.
    """

    def __init__(self, name: str, path: Path, base: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.path = path
        self._checkpoint = open_checkpoint(path)
        layout = identify(self._checkpoint, name)
        self.config = make_config(name, self._checkpoint, layout, base)
        self._targets = _find_targets(name, self._checkpoint, layout, self.config)

    @property
    def files(self) -> list[Path]:
        """The file, or all shards."""
        return sorted(self._checkpoint.stamps)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Parameters by the names that diffusers and transformers give them."""
        return {name: TensorInfo(t.kind, t.shape) for name, t in self._targets.items()}

    @property
    def is_quantised(self) -> bool:
        """Whether weights stay packed in memory."""
        return any(target.stays_packed for target in self._targets.values())

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Return the memory of the loaded weights, in bytes."""
        return sum(self.tensor_bytes(dtype).values())

    def tensor_bytes(self, dtype: torch.dtype) -> dict[str, int]:
        """Return the same for every weight, by name."""
        return {name: target.num_bytes(dtype.itemsize) for name, target in self._targets.items()}

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Read the weights, one tensor at a time.

        Args:
            dtype: Type of everything that does not stay packed, and of the computation.

        Raises:
            ValueError: The file has changed since it was checked.
        """
        module = empty_module(self.name, self.config)
        wide = getattr(module, "_keep_in_fp32_modules", None) or ()
        with self._checkpoint.reading() as reader:
            for name, target in self._targets.items():
                needs_fp32 = dtype == torch.float16 and bool(set(wide) & set(name.split(".")))
                _load_target(module, name, target, reader, torch.float32 if needs_fp32 else dtype)
        return module


def _layout(component: str, layout: DetectedLayout, config: Mapping[str, Any]) -> Layout:
    if (component, layout.layout) == ("transformer", "original"):
        return original_transformer
    if (component, layout.layout) == ("vae", "original"):
        return original_vae(len(config["block_out_channels"]))
    if (component, layout.layout) == ("text_encoder", "transformers"):
        return with_prefix("text_model.")
    if (component, layout.layout) == ("text_encoder", "short"):
        return without_prefix("text_model.")
    if (component, layout.layout) == ("text_encoder_2", "gguf"):
        return gguf_t5(config["num_layers"])
    return same


def _find_targets(
    component: str, checkpoint: Checkpoint, file_layout: DetectedLayout, config: Mapping[str, Any]
) -> dict[str, _Target]:
    layout = _layout(component, file_layout, config)
    module = empty_module(component, config)
    linears = {n for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    targets: dict[str, _Target] = {}
    missing: list[str] = []
    for name, parameter in module.named_parameters():
        pieces = layout(name, parameter.shape[0])
        keys = [file_layout.prefix + piece.key for piece in pieces]
        if any(key not in checkpoint.tensors for key in keys):
            missing.append(name)
            continue
        rows = tuple(_rows(checkpoint, file_layout.prefix, p, parameter.shape) for p in pieces)
        owner, _, end = name.rpartition(".")
        is_weight = end == "weight" and owner in linears
        packed = is_weight and is_quantised(rows[0].stored.info.dtype)
        targets[name] = _Target(tuple(parameter.shape), rows, packed)
    if missing:
        raise ValueError(
            f"{checkpoint.name} lacks {len(missing)} weights of {SLOTS[component]} "
            f"({missing[0]} ...); download it again, complete"
        )
    return targets


def _rows(checkpoint: Checkpoint, prefix: str, piece: TensorSlice, shape: torch.Size) -> _Rows:
    key = prefix + piece.key
    stored = checkpoint.tensors[key]
    info = stored.info
    if not is_readable(info.dtype, checkpoint.is_gguf):
        raise ValueError(
            f"{checkpoint.name} holds {key} as {info.dtype}, which cannot be read here; get it in "
            f"{READABLE}"
        )
    columns = math.prod(shape[1:])
    fits = math.prod(info.shape[1:]) == columns and stored.rows == piece.total
    if not fits or info.num_bytes % max(stored.rows, 1):
        raise ValueError(
            f"{checkpoint.name} has {key} as {list(info.shape)} where its other weights need "
            f"{[piece.total, *shape[1:]]}; it is damaged or mixes different models"
        )
    return _Rows(stored, piece.start, piece.stop, _scale(checkpoint, key, stored))


def _scale(checkpoint: Checkpoint, key: str, stored: StoredTensor) -> StoredTensor | None:
    owner, _, end = key.rpartition(".")
    scales = (checkpoint.tensors.get(f"{owner}.{name}") for name in SCALES)
    scale = next((s for s in scales if s is not None), None) if end == "weight" else None
    if scale is None:
        return None
    info = scale.info
    if info.numel != scale.rows or info.numel not in (1, stored.rows) or info.dtype not in PLAIN:
        raise ValueError(
            f"{checkpoint.name} has scales of {list(info.shape)} in {info.dtype} for the "
            f"{stored.rows} rows of {key}, but one, or one per row, in F32 is expected; get it in "
            f"{READABLE}"
        )
    return scale


def _load_target(
    module: nn.Module, name: str, target: _Target, reader: Reader, dtype: torch.dtype
) -> None:
    """Give a parameter its values, or replace its layer by one that keeps them packed."""
    owner_name, _, end = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    packed = torch.cat([reader.rows(r.stored, r.start, r.stop) for r in target.rows])
    scales = [_read_scale(r, reader) for r in target.rows if r.scale is not None]
    scale = torch.cat(scales) if scales else None
    if not target.stays_packed:
        values = expand(target.kind, packed, dtype, scale).reshape(target.shape)
        owner.register_parameter(end, nn.Parameter(values, requires_grad=False))
        return
    layer = QuantisedLinear(target.kind, packed, target.shape[1], dtype, scale=scale)
    if owner.bias is not None:  # its bias is a target of its own
        layer.bias = owner.bias  # type: ignore[assignment]
    parent, _, child = owner_name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)


def _read_scale(rows: _Rows, reader: Reader) -> torch.Tensor:
    """Return the scale of rows, float32 ``[rows, 1]``."""
    assert rows.scale is not None, "only asked for rows that have one"
    scale, info = rows.scale, rows.scale.info
    num = rows.stop - rows.start
    first, last = (rows.start, rows.stop) if info.numel > 1 else (0, 1)
    values = expand(info.dtype, reader.rows(scale, first, last), torch.float32)
    return values.reshape(-1, 1).expand(num, 1).contiguous()
