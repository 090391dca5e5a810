"""What the kernels accept, as tables that explain a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""float64 serves gradient checks; the kernels then also compute in it."""
MIN_CAPABILITY = (8, 0)
"""Ampere: the first NVIDIA GPUs with bfloat16 arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRule:
    """What one tensor has to be. Example: ``TensorRule(axes='BSD').refusal('x', tensor)``."""

    axes: str
    """A letter per axis: the same letter is the same length in all tensors of a call."""
    dtypes: tuple[torch.dtype, ...] = FLOATS
    max_width: int = 8192
    """Longest last axis: a row stays in the registers of one program."""
    is_power_of_two: bool = False
    """Whether the last axis has to be one, because a tile of it is reshaped."""
    is_strided: bool = False
    """Whether the last axis may have a stride other than 1."""

    def refusal(self, name: str, tensor: torch.Tensor) -> str | None:
        """Return why a tensor is refused; None: it is accepted."""
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return f"{name} is a {type(tensor).__name__}, but an ordinary tensor is expected"
        if tensor.dtype not in self.dtypes:
            allowed = ", ".join(str(d).removeprefix("torch.") for d in self.dtypes)
            return f"{name} is {tensor.dtype}, but one of {allowed} is expected"
        if tensor.ndim != len(self.axes):
            return f"{name} has {tensor.ndim} axes, but {len(self.axes)} are expected"
        width = tensor.shape[-1]
        if not 0 < width <= self.max_width:
            return f"{name} is {width} wide, but 1 to {self.max_width} is expected"
        if self.is_power_of_two and width & (width - 1):
            return f"{name} is {width} wide, but a power of two is expected"
        if not self.is_strided and width > 1 and tensor.stride(-1) != 1:
            return f"{name} has stride {tensor.stride(-1)} in its last axis, but 1 is expected"
        return None


VECTOR = TensorRule(axes="BD")
ROWS = TensorRule(axes="BSD")
WIDE_ROWS = TensorRule(axes="BSD", max_width=1 << 20)
HEAD_WEIGHT = TensorRule(axes="D", max_width=256, is_power_of_two=True)
HEADS = replace(HEAD_WEIGHT, axes="BSHD")
TEXT, IMAGE = replace(HEADS, axes="BTHD"), replace(HEADS, axes="BIHD")
ANGLES = TensorRule(
    axes="SP", max_width=128, is_strided=True, dtypes=(torch.float32, torch.float64)
)
JOINT_ANGLES = replace(ANGLES, axes="JP")

TABLE: dict[str, dict[str, TensorRule]] = {
    "qk_norm_rope": {
        **{"q": HEADS, "k": HEADS, "q_weight": HEAD_WEIGHT, "k_weight": HEAD_WEIGHT},
        **{"cos": ANGLES, "sin": ANGLES},
    },
    "joint_qkv_norm_rope": {
        **{f"text_{name}": TEXT for name in "qkv"},
        **{f"image_{name}": IMAGE for name in "qkv"},
        **{f"text_{name}_weight": HEAD_WEIGHT for name in "qk"},
        **{f"image_{name}_weight": HEAD_WEIGHT for name in "qk"},
        **{"cos": JOINT_ANGLES, "sin": JOINT_ANGLES},
    },
    "adaln_modulate": {"x": ROWS, "scale": VECTOR, "shift": VECTOR},
    "gated_residual": {"residual": ROWS, "gate": VECTOR, "update": ROWS},
    "gated_residual_adaln": {
        **{"residual": ROWS, "gate": VECTOR, "update": ROWS, "scale": VECTOR, "shift": VECTOR},
    },
    "gelu_tanh": {"x": WIDE_ROWS},
    "concat_gelu": {"attention": WIDE_ROWS, "mlp": replace(WIDE_ROWS, axes="BSM")},
    "cfg_euler_step": {
        **{"latents": WIDE_ROWS, "velocity": replace(WIDE_ROWS, axes="VSD")},
        **{"keep": replace(WIDE_ROWS, axes="BSK"), "source": WIDE_ROWS, "noise": WIDE_ROWS},
    },
}
"""Operation to the rule of each of its tensors; an optional tensor may be left out of a call."""
ONE_TYPE: dict[str, tuple[tuple[str, str], ...]] = {
    "joint_qkv_norm_rope": tuple((f"text_{name}", f"image_{name}") for name in "qkv"),
    "concat_gelu": (("attention", "mlp"),),
}
"""Operation to the tensors that it writes into one buffer, as they are."""


def refusals(operation: str, tensors: Mapping[str, torch.Tensor | None]) -> Iterator[str]:
    """Yield every reason why the kernel of an operation does not take these tensors."""
    rules = TABLE[operation]
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in present.items():
        if reason := rules[name].refusal(name, tensor):
            yield reason
    yield from _shape_refusals(rules, present)
    for name, partner in ONE_TYPE.get(operation, ()):
        if present[name].dtype != present[partner].dtype:
            yield f"{name} is {present[name].dtype}, but {partner} is {present[partner].dtype}"
    devices = {tensor.device for tensor in present.values()}
    if len(devices) > 1:
        yield f"tensors are on {' and '.join(sorted(map(str, devices)))}, but on one is expected"


def _shape_refusals(
    rules: Mapping[str, TensorRule], tensors: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    """A kernel takes the lengths from one tensor; in a shorter one it would leave the memory."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        axes = rules[name].axes
        if tensor.ndim != len(axes):
            return
        if axes[-1] == "P":  # pairs of channels, of all tokens
            sizes["P"] = sizes["D"] // 2
            sizes["J"] = sizes.get("T", 0) + sizes.get("I", 0)
        expected = [sizes.setdefault(a, n) for a, n in zip(axes, tensor.shape, strict=True)]
        if list(tensor.shape) != expected:
            yield f"{name} is {list(tensor.shape)}, but {expected} is expected"
