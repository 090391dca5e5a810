"""Every fused operation at the shapes of FLUX.1: eager, compiled, ours, and others' kernels.

Eager is what diffusers does, line by line; compiled is that under ``torch.compile``. Accuracy is
the error against float64, checked before anything is timed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timing import interleave, num_sets, peak_bytes
from torch import Tensor
from torch.nn import functional as F

from onereward import kernels

Run = Callable[..., Any]
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Tokens and widths of one model call.

    Example: ``Shape(name="1024 B=1", batch=1, image=4096).width == 3072``.
    """

    name: str
    batch: int
    image: int
    text: int = 512
    heads: int = 24
    head_dim: int = 128

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.heads * self.head_dim


FLUX = (
    Shape(name="1024 B=1", batch=1, image=4096),
    Shape(name="1024 B=2", batch=2, image=4096),
    Shape(name="512 B=1", batch=1, image=1024),
)
SMALL = (Shape(name="small", batch=2, image=2, text=1, heads=3, head_dim=8),)


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """One operation in all its forms; they take the same inputs.

    Example: ``next(operations(SMALL[0], torch.device("cpu"))).name == "joint_qkv_norm_rope"``.
    """

    name: str
    shapes: Sequence[tuple[int, ...]]
    """Of the inputs."""
    num_learned: int
    """The first so many inputs get a gradient; 0: only the forward pass is of interest."""
    backward_values: int = 0
    """Numbers read and written by a backward pass that moves nothing twice."""
    eager: Run
    fused: Run
    external: dict[str, Run] = field(default_factory=dict)
    is_product: bool = False
    """Whether a matrix product takes the time, so that bytes per second say nothing."""


def operations(shape: Shape, device: torch.device) -> Iterator[Operation]:
    """Yield the operations of a FLUX block."""
    b, t, s, d = shape.batch, shape.text, shape.image, shape.width
    image, joint, vector = (b, s, d), (b, t + s, d), (b, d)
    yield _joint_rope(shape, device)
    yield _single_rope(shape, device)
    yield Operation(
        name="adaln_modulate", shapes=(image, vector, vector), num_learned=1,
        backward_values=3 * b * s * d, eager=_eager_adaln, fused=kernels.adaln_modulate,
        external=_kitchen_adaln(),
    )  # fmt: skip
    yield Operation(
        name="gated_residual_adaln", shapes=(image, image, vector, vector, vector), num_learned=2,
        backward_values=5 * b * s * d, eager=_eager_gated_adaln,
        fused=lambda x, u, g, a, c: kernels.gated_residual_adaln(x, g, u, (a, c)),
    )  # fmt: skip
    yield Operation(
        name="gated_residual", shapes=(joint, joint, vector), num_learned=2,
        backward_values=2 * b * (t + s) * d, eager=lambda x, u, g: x + g[:, None] * u,
        fused=lambda x, u, g: kernels.gated_residual(x, g, u),
    )  # fmt: skip
    yield Operation(
        name="gelu_tanh", shapes=((b, s, 4 * d),), num_learned=1, backward_values=12 * b * s * d,
        eager=lambda x: F.gelu(x, approximate="tanh"), fused=kernels.gelu_tanh,
    )  # fmt: skip
    yield Operation(
        name="concat_gelu", shapes=(joint, (b, t + s, 4 * d)), num_learned=2,
        backward_values=12 * b * (t + s) * d,
        eager=lambda a, m: torch.cat([a, F.gelu(m, approximate="tanh")], dim=2),
        fused=kernels.concat_gelu,
    )  # fmt: skip
    yield Operation(
        name="lora_linear r=16", shapes=(joint, (16, d), (d, 16), (d, d), (d,)), num_learned=3,
        eager=lambda x, down, up, w, c: F.linear(x, w, c) + F.linear(F.linear(x, down), up) * 0.5,
        fused=lambda x, down, up, w, c: kernels.lora_linear(x, w, c, down, up, 0.5),
        is_product=True,
    )  # fmt: skip
    yield Operation(
        name="cfg_euler_step", shapes=((b, s, 64), (2 * b, s, 64)), num_learned=0,
        eager=_eager_cfg, fused=lambda x, v: kernels.cfg_euler_step(x, v, (0.8, 0.75), 4.0),
    )  # fmt: skip


def _eager_adaln(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[:, None]) + shift[:, None]


def _eager_gated_adaln(x: Tensor, update: Tensor, gate: Tensor, scale: Tensor, shift: Tensor):  # noqa: ANN202
    h = x + gate[:, None] * update
    return h, _eager_adaln(h, scale, shift)


def _eager_cfg(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    negative, positive = v.chunk(2)
    mixed = negative + 4.0 * (positive - negative)
    return (x.float() + (0.75 - 0.8) * mixed).to(x.dtype), (x.float() - 0.8 * mixed).to(x.dtype)


def _angles(tokens: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    theta = torch.arange(tokens, device=device)[:, None] * torch.logspace(
        0, -4, dim // 2, device=device
    )
    return theta.cos(), theta.sin()


def _rope(x: Tensor, full: tuple[Tensor, Tensor]) -> Tensor:
    from diffusers.models.embeddings import apply_rotary_emb

    return apply_rotary_emb(x, full, sequence_dim=1)  # type: ignore[return-value]


def _joint_rope(shape: Shape, device: torch.device) -> Operation:
    b, t, s, h, d = shape.batch, shape.text, shape.image, shape.heads, shape.head_dim
    half = _angles(t + s, d, device)
    full = (half[0].repeat_interleave(2, 1), half[1].repeat_interleave(2, 1))

    def eager(*x: Tensor) -> tuple[Tensor, ...]:
        tq, tk, tv, iq, ik, iv, *weights = x
        normed = (
            F.rms_norm(v, (d,), w, EPS)
            for v, w in zip((tq, tk, iq, ik), weights, strict=True)
        )  # fmt: skip
        tq, tk, iq, ik = normed
        q, k, v = (torch.cat(pair, dim=1) for pair in ((tq, iq), (tk, ik), (tv, iv)))
        return _rope(q, full), _rope(k, full), v

    def fused(*x: Tensor) -> tuple[Tensor, ...]:
        wide = (
            (half[0].to(x[0].dtype), half[1].to(x[0].dtype)) if x[0].dtype.itemsize == 8 else half
        )
        return kernels.joint_qkv_norm_rope(
            (x[0], x[1], x[2]), (x[3], x[4], x[5]), (x[6], x[7]), (x[8], x[9]), wide
        )

    return Operation(
        name="joint_qkv_norm_rope",
        shapes=(*[(b, t, h, d)] * 3, *[(b, s, h, d)] * 3, *[(d,)] * 4),
        num_learned=6, backward_values=6 * b * (t + s) * h * d, eager=eager, fused=fused,
    )  # fmt: skip


def _single_rope(shape: Shape, device: torch.device) -> Operation:
    b, tokens, h, d = shape.batch, shape.text + shape.image, shape.heads, shape.head_dim
    half = _angles(tokens, d, device)
    full = (half[0].repeat_interleave(2, 1), half[1].repeat_interleave(2, 1))

    def eager(q: Tensor, k: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        q, k = F.rms_norm(q, (d,), a, EPS), F.rms_norm(k, (d,), c, EPS)
        return _rope(q, full), _rope(k, full)

    def fused(q: Tensor, k: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        wide = (half[0].to(q.dtype), half[1].to(q.dtype)) if q.dtype.itemsize == 8 else half
        return kernels.qk_norm_rope(q, k, a, c, wide, EPS)

    return Operation(
        name="qk_norm_rope", shapes=(*[(b, tokens, h, d)] * 2, (d,), (d,)), num_learned=2,
        backward_values=6 * b * tokens * h * d, eager=eager, fused=fused,
        external=_kitchen_rope(half),
    )  # fmt: skip


def _kitchen_adaln() -> dict[str, Run]:
    kitchen = _kitchen()
    if kitchen is None:
        return {}
    return {"comfy-kitchen": lambda x, a, c: kitchen.adaln(x, a[:, None], c[:, None], EPS)}


def _kitchen_rope(half: tuple[Tensor, Tensor]) -> dict[str, Run]:
    kitchen = _kitchen()
    if kitchen is None:
        return {}
    cos, sin = half
    rows = (torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1))
    table = torch.stack(rows, -2)[None, :, None]  # [1, S, 1, D / 2, 2, 2]
    return {"comfy-kitchen": lambda q, k, a, c: kitchen.rms_rope(q, k, table, a, c, EPS)}


def _kitchen() -> Any:
    try:
        import comfy_kitchen  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError):
        return None
    return comfy_kitchen


def measure(
    shape: Shape, device: torch.device, dtype: torch.dtype, rounds: int, backend: str
) -> Iterator[dict[str, Any]]:
    """Yield a row per operation and pass.

    Args:
        shape: Tokens and widths.
        device: Where.
        dtype: Of the inputs.
        rounds: Measurements of each variant.
        backend: What ``torch.compile`` compiles with.
    """
    for operation in operations(shape, device):
        # The forms: eager, compiled, the pack's own, and other packages'.
        torch.compiler.reset()
        compiled = torch.compile(operation.eager, dynamic=False, backend=backend)
        variants = {"eager": operation.eager, "compiled": compiled, "ours": operation.fused}
        for is_trained in (False, True) if operation.num_learned else (False,):
            bench = _Bench(operation, device, dtype, is_trained)
            external = {} if is_trained else operation.external
            failed = {
                name: error for name, run in external.items() if (error := bench.failure(run))
            }
            runs = variants | {n: run for n, run in external.items() if n not in failed}
            # Accuracy comes before speed.
            row = {"operation": operation.name, "shape": shape.name, "bytes": bench.num_bytes}
            row |= {"failed": failed}
            row |= {"pass": "forward and backward" if is_trained else "forward"}
            row |= {"is_product": operation.is_product}
            row["error"] = {name: bench.error(run) for name, run in runs.items()}
            calls = {name: bench.call(run) for name, run in runs.items()}
            row["us"] = interleave(calls, device, rounds, is_short=True)
            row["peak"] = {name: peak_bytes(call, device) for name, call in calls.items()}
            yield row


class _Bench:
    """Inputs, several sets of them, and the calls on them."""

    def __init__(
        self, operation: Operation, device: torch.device, dtype: torch.dtype, is_trained: bool
    ) -> None:
        self._operation, self._is_trained = operation, is_trained
        self._generator = torch.Generator(device).manual_seed(0)
        self._device, self._dtype = device, dtype
        first = self._draw()
        values = sum(x.numel() for x in first)
        outputs = self._run(operation.fused, first)
        self.num_bytes = (values + sum(y.numel() for y in outputs)) * dtype.itemsize
        if is_trained:
            self.num_bytes += operation.backward_values * dtype.itemsize
        self._grads = [self._normal(tuple(y.shape)) for y in outputs] if is_trained else []
        count = num_sets(values * dtype.itemsize, device)
        self._sets = [first, *(self._draw() for _ in range(count - 1))]

    def call(self, run: Run) -> Callable[[], object]:
        """Return a call that takes the next set of inputs each time."""
        turn = itertools.cycle(self._sets)
        if not self._is_trained:
            return lambda: self._run(run, next(turn))
        return lambda: self._both(run, next(turn), self._grads)

    def failure(self, run: Run) -> str | None:
        """Say why a form does not run here; others' need not."""
        try:
            self._run(run, self._sets[0])
        except Exception as error:  # noqa: BLE001  (of whatever kind: another package)
            return f"{type(error).__name__}: {str(error)[:200]}"
        return None

    def error(self, run: Run) -> float:
        """Return the largest relative error against float64, of results and gradients."""
        wide = [x.detach().double() for x in self._sets[0]]
        with kernels.use_backend("reference"):
            truth = self._evaluate(self._operation.fused, wide, [g.double() for g in self._grads])
        results = self._evaluate(run, self._sets[0], self._grads)
        return max(
            float((a.double() - b).norm() / b.norm()) for a, b in zip(results, truth, strict=True)
        )

    def _evaluate(self, run: Run, inputs: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        if not self._is_trained:
            return self._run(run, inputs)
        num_learned = self._operation.num_learned
        leaves = [x.detach().requires_grad_(i < num_learned) for i, x in enumerate(inputs)]
        return [*self._run(run, inputs), *self._both(run, leaves, grads)]

    def _run(self, run: Run, inputs: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            outputs = run(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def _both(self, run: Run, inputs: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        with torch.enable_grad():
            outputs = run(*inputs)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        leaves = inputs[: self._operation.num_learned]
        return list(torch.autograd.grad(outputs, leaves, grads))

    def _draw(self) -> list[Tensor]:
        num_learned = self._operation.num_learned if self._is_trained else 0
        return [
            self._normal(size, size[-1] ** -0.5 if _is_weight(size) else 1.0).requires_grad_(
                i < num_learned
            )
            for i, size in enumerate(self._operation.shapes)
        ]

    def _normal(self, size: tuple[int, ...], scale: float = 1.0) -> Tensor:
        values = torch.randn(size, generator=self._generator, device=self._device)
        return (values * scale).to(self._dtype)


def _is_weight(size: tuple[int, ...]) -> bool:
    """Tell a matrix, whose products should keep the scale, from activations and vectors."""
    return len(size) == 2 and size[0] > 2
