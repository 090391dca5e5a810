"""Inputs for every fused operation, and the same operation as diffusers spells it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onereward import kernels
from onereward.kernels.dispatch import is_interpreted

from .machine import has_gpu

Run = Callable[..., Tensor | Sequence[Tensor]]
DEVICE = torch.device("cuda" if has_gpu() and not is_interpreted() else "cpu")
"""Where the kernels are tested: compiled on a GPU, else in Triton's interpreter."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation with inputs that are awkward in some way.

    Example: ``Case(shapes=((2, 3),), fused=kernels.gelu_tanh, plain=torch_gelu).inputs()``.
    """

    shapes: tuple[tuple[int, ...], ...]
    """Of the inputs that get a gradient."""
    fused: Run
    """Takes those inputs, in any data type, to the public operation."""
    plain: Run
    """The same from unfused operations, rounding where they round."""
    edit: Callable[[list[Tensor]], None] = lambda inputs: None
    """Puts special values into the inputs."""

    def inputs(self, seed: int = 0) -> list[Tensor]:
        """Draw the inputs, float64, on the device, with values that every data type can hold."""
        generator = torch.Generator().manual_seed(seed)
        inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in self.shapes]
        self.edit(inputs)
        return [x.to(torch.bfloat16).to(torch.float16).double().to(DEVICE) for x in inputs]


def angles(tokens: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[S, D / 2]``; the first token is not rotated."""
    theta = torch.arange(tokens)[:, None] * torch.linspace(1, 0.1, dim // 2)[None]
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    return theta.cos().to(DEVICE, wide), theta.sin().to(DEVICE, wide)


def _plain_rope(x: Tensor, weight: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    from diffusers.models.embeddings import apply_rotary_emb

    full = tuple(a.repeat_interleave(2, dim=-1) for a in cos_sin)
    normed = F.rms_norm(x, x.shape[-1:], weight, 1e-6)
    return apply_rotary_emb(normed, full, sequence_dim=1)  # type: ignore[return-value]


def _heads(packed: Tensor, dim: int, parts: int) -> list[Tensor]:
    width = packed.shape[-1] // parts
    return [part.unflatten(-1, (-1, dim)) for part in packed.split(width, -1)]


def _single(dim: int) -> tuple[Run, Run]:
    def fused(packed: Tensor, q_weight: Tensor, k_weight: Tensor) -> Sequence[Tensor]:
        q, k, *_ = _heads(packed, dim, 3)
        cos_sin = angles(q.shape[1], dim, q.dtype)
        return kernels.qk_norm_rope(q, k, q_weight, k_weight, cos_sin)

    def plain(packed: Tensor, q_weight: Tensor, k_weight: Tensor) -> Sequence[Tensor]:
        q, k, *_ = _heads(packed, dim, 3)
        cos_sin = angles(q.shape[1], dim, q.dtype)
        return _plain_rope(q, q_weight, cos_sin), _plain_rope(k, k_weight, cos_sin)

    return fused, plain


def _joint(dim: int) -> tuple[Run, Run]:
    def fused(text: Tensor, image: Tensor, *weights: Tensor) -> Sequence[Tensor]:
        a, b, c, d = weights
        t, i = _heads(text, dim, 3), _heads(image, dim, 3)
        cos_sin = angles(text.shape[1] + image.shape[1], dim, text.dtype)
        return kernels.joint_qkv_norm_rope(
            (t[0], t[1], t[2]), (i[0], i[1], i[2]), (a, b), (c, d), cos_sin
        )

    def plain(text: Tensor, image: Tensor, *weights: Tensor) -> Sequence[Tensor]:
        t, i = _heads(text, dim, 3), _heads(image, dim, 3)
        cos, sin = angles(text.shape[1] + image.shape[1], dim, text.dtype)
        n = text.shape[1]
        results = [
            torch.cat(
                [
                    _plain_rope(t[j], weights[j], (cos[:n], sin[:n])),
                    _plain_rope(i[j], weights[2 + j], (cos[n:], sin[n:])),
                ],
                1,
            )
            for j in range(2)
        ]
        return [*results, torch.cat([t[2], i[2]], 1)]

    return fused, plain


def _plain_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def _modulate(x: Tensor, packed: Tensor) -> Tensor:
    scale, shift = packed.chunk(2, dim=1)
    return kernels.adaln_modulate(x[:, 1:], scale, shift)


def _plain_modulate(x: Tensor, packed: Tensor) -> Tensor:
    scale, shift = packed.chunk(2, dim=1)
    return _plain_norm(x[:, 1:], scale, shift)


def _both(residual: Tensor, update: Tensor, packed: Tensor) -> Sequence[Tensor]:
    gate, scale, shift = packed.chunk(3, dim=1)
    return kernels.gated_residual_adaln(residual[:, 1:], gate, update, (scale, shift))


def _plain_both(residual: Tensor, update: Tensor, packed: Tensor) -> Sequence[Tensor]:
    gate, scale, shift = packed.chunk(3, dim=1)
    h = residual[:, 1:] + gate[:, None] * update
    return h, _plain_norm(h, scale, shift)


def _residual(residual: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return kernels.gated_residual(residual, gate, update)


def _plain_residual(residual: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return residual + gate[:, None] * update


def _concat(attention: Tensor, packed: Tensor) -> Tensor:
    return kernels.concat_gelu(attention[:, 1:], packed[..., 5:])


def _plain_concat(attention: Tensor, packed: Tensor) -> Tensor:
    return torch.cat([attention[:, 1:], F.gelu(packed[..., 5:], approximate="tanh")], -1)


SIGMAS = (0.75, 0.5)


def _step(latents: Tensor, velocity: Tensor) -> Sequence[Tensor]:
    return kernels.cfg_euler_step(latents, velocity, SIGMAS, 4.0)


def _plain_step(latents: Tensor, velocity: Tensor) -> Sequence[Tensor]:
    negative, positive = velocity.chunk(2)
    v = negative + 4.0 * (positive - negative)
    return latents + (SIGMAS[1] - SIGMAS[0]) * v, latents - SIGMAS[0] * v


def _blend(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    keep = torch.tensor([0.0, 1.0, 0.25, 0.5]).expand(*like.shape[:-1], 4).contiguous()
    source, noise = torch.randn(2, *like.shape, generator=generator).to(torch.bfloat16)
    return keep.to(like), source.to(like), noise.to(like)


def _kept(latents: Tensor, velocity: Tensor) -> Sequence[Tensor]:
    return kernels.cfg_euler_step(latents, velocity, SIGMAS, blend=_blend(latents))


def _plain_kept(latents: Tensor, velocity: Tensor) -> Sequence[Tensor]:
    keep, source, noise = _blend(latents)
    keep = keep.repeat(1, 1, latents.shape[-1] // 4)
    stepped = latents + (SIGMAS[1] - SIGMAS[0]) * velocity
    path = (1 - SIGMAS[1]) * source + SIGMAS[1] * noise
    return (1 - keep) * stepped + keep * path, latents - SIGMAS[0] * velocity


def _zero_row(inputs: list[Tensor]) -> None:
    inputs[0][0, 0] = 0


def _far_from_zero(inputs: list[Tensor]) -> None:
    inputs[0] += 100  # bf16 has no finer values there than 0.5
    inputs[0][0, -1] = 3


def _extremes(inputs: list[Tensor]) -> None:
    inputs[0][0, 0, :6] = torch.tensor([30.0, -30.0, 0.0, -0.0, 2.0**-20, -8.0])


def _no_gate(inputs: list[Tensor]) -> None:
    inputs[2][0] = 0


_SINGLE, _JOINT, _WIDE_JOINT = _single(32), _joint(16), _joint(128)
CASES = {
    "qk_norm_rope-packed": Case(
        shapes=((2, 2, 3 * 3 * 32), (32,), (32,)),
        fused=_SINGLE[0], plain=_SINGLE[1], edit=_zero_row,
    ),
    "joint_qkv_norm_rope-three_heads": Case(
        shapes=((2, 1, 3 * 3 * 16), (2, 2, 3 * 3 * 16), *((16,),) * 4),
        fused=_JOINT[0], plain=_JOINT[1],
    ),
    "joint_qkv_norm_rope-flux_heads": Case(
        shapes=((1, 1, 3 * 9 * 128), (1, 1, 3 * 9 * 128), *((128,),) * 4),
        fused=_WIDE_JOINT[0], plain=_WIDE_JOINT[1],
    ),
    "adaln_modulate-odd": Case(
        shapes=((2, 4, 45), (2, 90)), fused=_modulate, plain=_plain_modulate,
    ),
    "adaln_modulate-flux_width": Case(
        shapes=((1, 3, 3072), (1, 6144)), fused=_modulate, plain=_plain_modulate,
    ),
    "adaln_modulate-one_column": Case(
        shapes=((1, 3, 1), (1, 2)), fused=_modulate, plain=_plain_modulate,
    ),
    "adaln_modulate-far_mean_and_constant_row": Case(
        shapes=((1, 4, 48), (1, 96)), fused=_modulate, plain=_plain_modulate, edit=_far_from_zero,
    ),
    "gated_residual_adaln-strided": Case(
        shapes=((2, 4, 48), (2, 3, 48), (2, 144)), fused=_both, plain=_plain_both,
    ),
    "gated_residual_adaln-many_rows": Case(
        shapes=((1, 36, 20), (1, 35, 20), (1, 60)), fused=_both, plain=_plain_both,
    ),
    "gated_residual-no_gate": Case(
        shapes=((2, 3, 48), (2, 3, 48), (2, 48)),
        fused=_residual, plain=_plain_residual, edit=_no_gate,
    ),
    "gelu_tanh-extremes": Case(
        shapes=((1, 2, 1030),), edit=_extremes,
        fused=kernels.gelu_tanh, plain=lambda x: F.gelu(x, approximate="tanh"),
    ),
    "concat_gelu-strided": Case(
        shapes=((2, 3, 24), (2, 2, 101)), fused=_concat, plain=_plain_concat,
    ),
    "cfg_euler_step-guided": Case(
        shapes=((2, 3, 12), (4, 3, 12)), fused=_step, plain=_plain_step,
    ),
    "cfg_euler_step-blend": Case(
        shapes=((1, 3, 12), (1, 3, 12)), fused=_kept, plain=_plain_kept,
    ),
}  # fmt: skip


def run(
    call: Run, inputs: list[Tensor], dtype: torch.dtype, with_gradient: bool = True
) -> list[Tensor]:
    """Return the results and, if asked, the gradients of every input, for fixed weights."""
    leaves = [x.to(dtype).requires_grad_(with_gradient) for x in inputs]
    outputs = call(*leaves)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not with_gradient:
        return outputs
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(m.shape, generator=generator).to(torch.bfloat16).to(m) for m in outputs]
    return [*outputs, *torch.autograd.grad(outputs, leaves, weights)]
