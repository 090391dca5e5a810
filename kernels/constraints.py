"""What the kernels accept, as tables that explain a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""float64 serves gradient checks; the kernels then also compute in it."""
MIN_CAPABILITY = (8, 0)
"""Ampere: the first NVIDIA GPUs with bfloat16 arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRule:
    """What one tensor argument has to be."""

    rank: int
    dtypes: tuple[torch.dtype, ...] = FLOATS
    max_width: int = 8192
    """Longest last axis: a row stays in the registers of one program."""
    is_power_of_two: bool = False
    """Whether the last axis has to be one, because a tile of it is reshaped."""
    is_strided: bool = False
    """Whether the last axis may have a stride other than 1."""

    def refusal(self, name: str, tensor: torch.Tensor) -> str | None:
        """Say why a tensor is refused; None: it is accepted."""
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return f"{name} is a {type(tensor).__name__}, but an ordinary tensor is expected"
        if tensor.dtype not in self.dtypes:
            allowed = ", ".join(str(d).removeprefix("torch.") for d in self.dtypes)
            return f"{name} is {tensor.dtype}, but one of {allowed} is expected"
        if tensor.ndim != self.rank:
            return f"{name} has {tensor.ndim} axes, but {self.rank} are expected"
        width = tensor.shape[-1]
        if not 0 < width <= self.max_width:
            return f"{name} is {width} wide, but 1 to {self.max_width} is expected"
        if self.is_power_of_two and width & (width - 1):
            return f"{name} is {width} wide, but a power of two is expected"
        if not self.is_strided and width > 1 and tensor.stride(-1) != 1:
            return f"{name} has stride {tensor.stride(-1)} in its last axis, but 1 is expected"
        return None


VECTOR = TensorRule(rank=2)
ROWS = TensorRule(rank=3)
WIDE_ROWS = TensorRule(rank=3, max_width=1 << 20)
HEADS = TensorRule(rank=4, max_width=256, is_power_of_two=True)
HEAD_WEIGHT = TensorRule(rank=1, max_width=256, is_power_of_two=True)
ANGLES = TensorRule(rank=2, max_width=128, is_strided=True, dtypes=(torch.float32, torch.float64))

TABLE: dict[str, dict[str, TensorRule]] = {
    "qk_norm_rope": {
        **{"q": HEADS, "k": HEADS, "q_weight": HEAD_WEIGHT, "k_weight": HEAD_WEIGHT},
        **{"cos": ANGLES, "sin": ANGLES},
    },
    "joint_qkv_norm_rope": {
        **{f"text_{name}": HEADS for name in "qkv"},
        **{f"image_{name}": HEADS for name in "qkv"},
        **{f"text_{name}_weight": HEAD_WEIGHT for name in "qk"},
        **{f"image_{name}_weight": HEAD_WEIGHT for name in "qk"},
        **{"cos": ANGLES, "sin": ANGLES},
    },
    "adaln_modulate": {"x": ROWS, "scale": VECTOR, "shift": VECTOR},
    "gated_residual": {"residual": ROWS, "gate": VECTOR, "update": ROWS},
    "gated_residual_adaln": {
        **{"residual": ROWS, "gate": VECTOR, "update": ROWS, "scale": VECTOR, "shift": VECTOR},
    },
    "gelu_tanh": {"x": WIDE_ROWS},
    "concat_gelu": {"attention": WIDE_ROWS, "mlp": WIDE_ROWS},
    "cfg_euler_step": {
        **{"latents": WIDE_ROWS, "velocity": WIDE_ROWS},
        **{"keep": WIDE_ROWS, "source": WIDE_ROWS, "noise": WIDE_ROWS},
    },
}
"""Operation to the rule of each of its tensors; an optional tensor may be left out of a call."""


def refusals(operation: str, tensors: Mapping[str, torch.Tensor | None]) -> Iterator[str]:
    """Yield every reason why the kernel of an operation does not take these tensors."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in given.items():
        if reason := TABLE[operation][name].refusal(name, tensor):
            yield reason
    devices = {tensor.device for tensor in given.values()}
    if len(devices) > 1:
        yield f"tensors are on {' and '.join(sorted(map(str, devices)))}, but on one is expected"
