"""Packs the linear layers of a model's blocks into fp8 or NF4 while it is loaded.

For frozen models: a policy's base, a judge. What stands outside of the blocks (embeddings, first
and last layers) and what is no matrix stays as it is; so do layers that a file has packed already.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import nn

from ..io.files import TensorInfo
from .codec import FP8, NF4, NF4_BLOCK, PLAIN, is_quantised, nf4_codes
from .linear import QuantisedLinear

_KINDS = {"fp8": "F8_E4M3", "nf4": NF4}
"""Type of the packed weights by the precision that a config names."""
_BLOCK = re.compile(r"(^|_|\.)(transformer_blocks|layers)\.\d+\..*\.weight")
"""Weights in the blocks of a FLUX transformer, and of the judge's language model: its vision tower
says ``blocks`` and keeps its precision, for the reward's gradient ends there."""
EXPANSION_BYTES, GGUF_EXPANSION_BYTES = 6, 13
"""Per value of the layer that is being expanded: float32, and its copy in the wanted type. Block
formats make more of both on the way, IQ4_XS the most."""


def packed_bytes(
    tensors: Mapping[str, TensorInfo], sizes: Mapping[str, int], precision: str
) -> dict[str, int]:
    """Return the memory of every weight once a model is packed.

    Args:
        tensors: What the files hold.
        sizes: Their memory unpacked.
        precision: Of a config; those that pack nothing change nothing.
    """
    kind = _KINDS.get(precision)
    return {
        name: _size(kind, tensors[name].shape)
        if kind is not None and _is_packed(kind, name, tensors[name])
        else size
        for name, size in sizes.items()
    }


@torch.no_grad()
def pack_linears(module: nn.Module, precision: str) -> None:
    """Replace a model's linear layers by packed ones, one after the other.

    Args:
        module: A model on any device, of plain weights; gradients will not reach them any more.
        precision: Of a config; those that pack nothing change nothing.
    """
    kind = _KINDS.get(precision)
    if kind is None:
        return
    for name, layer in list(module.named_modules()):
        weight = f"{name}.weight"
        if type(layer) is not nn.Linear or not _fits(kind, weight, tuple(layer.weight.shape)):
            continue
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, _pack_layer(layer, kind))


def expansion_bytes(tensors: Mapping[str, TensorInfo], precision: str = "") -> int:
    """Return what the largest packed layer takes for the moment of its use, in bytes.

    Args:
        tensors: What the files hold, some of it packed already.
        precision: Of a config: what is packed besides.
    """
    kind = _KINDS.get(precision)
    sizes = [0]
    for name, info in tensors.items():
        if info.dtype in FP8 or (kind is not None and _is_packed(kind, name, info)):
            sizes.append(EXPANSION_BYTES * info.numel)
        elif is_quantised(info.dtype):
            sizes.append(GGUF_EXPANSION_BYTES * info.numel)
    return max(sizes)


def pack(kind: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return packed rows and their scale, as :func:`~.codec.expand` takes them.

    Args:
        kind: ``F8_E4M3``, with a scale per row that makes its largest value the largest of fp8; or
            ``NF4``, with one per 64 values.
        weight: ``[rows, columns]``, finite.

    Source: NF4, QLoRA (arXiv 2305.14314), as the package bitsandbytes packs it.
    """
    rows = weight.shape[0]
    values = weight.float() if kind != NF4 else weight.float().reshape(-1, NF4_BLOCK)
    largest = values.abs().amax(dim=1, keepdim=True)
    # Rows of zeros have no scale; whatever they are divided by, they are zeros again.
    divisor = largest.masked_fill(largest == 0, 1)
    if kind != NF4:
        limit = torch.finfo(FP8[kind]).max
        packed = (values / (divisor / limit)).clamp_(-limit, limit).to(FP8[kind])
        return packed.view(torch.uint8), largest / limit
    codes = nf4_codes(values / divisor).view(rows, -1, 2)
    return (codes[..., 0] << 4) | codes[..., 1], largest[:, 0]


def _pack_layer(layer: nn.Linear, kind: str) -> QuantisedLinear:
    packed, scale = pack(kind, layer.weight)
    return QuantisedLinear(
        kind, packed, layer.in_features, layer.weight.dtype, scale=scale, bias=layer.bias
    )


def _is_packed(kind: str, name: str, info: TensorInfo) -> bool:
    return info.dtype in PLAIN and _fits(kind, name, info.shape)


def _fits(kind: str, name: str, shape: tuple[int, ...]) -> bool:
    # A file may hold experts one by one; in memory they are one tensor, which stays as it is.
    is_matrix = len(shape) == 2 and _BLOCK.search(name) is not None and ".experts." not in name
    return is_matrix and (kind != NF4 or shape[1] % 2 == math.prod(shape) % NF4_BLOCK == 0)


def _size(kind: str, shape: tuple[int, ...]) -> int:
    numel = math.prod(shape)
    return numel // 2 + 4 * (numel // NF4_BLOCK) if kind == NF4 else numel + 4 * shape[0]
