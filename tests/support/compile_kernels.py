"""Compile every kernel for GPUs that are not here, at the shapes of FLUX, and report what came out.

``python compile_kernels.py bfloat16,float16 80,89,90`` prints one JSON object per kernel, launch,
type and target. Runs in its own process, because Triton decides at import whether kernels are
compiled or interpreted. The launchers get tensors without data: Triton looks at their type and
alignment only.
"""

# Lists are unpacked into the launchers:
# pyright: reportCallIssue=false

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
os.environ["TRITON_INTERPRET"] = "0"
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
import triton  # noqa: E402
from conftest import _load_package  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import JITFunction  # noqa: E402

os.environ["TRITON_INTERPRET"] = "0"
_load_package()

from onereward.kernels import adaln, cfg_euler, gelu, norm_rope  # noqa: E402

HEADS, DIM, TEXT, IMAGE = 24, 128, 512, 4096
WIDTH = HEADS * DIM


class AbsentGpu:
    """What Triton asks a driver for before it compiles.

    Example: ``triton.runtime.driver.set_active(AbsentGpu(90))``.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


def launches(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield a name and a call for every launch that differs in compiled code."""
    yield from _norm_rope(dtype)
    yield from _adaln(dtype)
    yield from _gelu(dtype)
    yield from _cfg_euler(dtype)


def _norm_rope(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    def heads(tokens: int, packed: int = 1) -> list[torch.Tensor]:
        joined = torch.empty(2, tokens, packed * WIDTH, dtype=dtype, device="meta")
        return [part.unflatten(-1, (HEADS, DIM)) for part in joined.split(WIDTH, -1)]

    text, image = heads(TEXT, 3), heads(IMAGE, 3)
    weight = torch.empty(DIM, dtype=dtype, device="meta")
    angle = torch.empty(TEXT + IMAGE, DIM // 2, device="meta")
    joint = [list(pair) for pair in zip(text, image, strict=True)]
    single = [[x] for x in heads(TEXT + IMAGE, 7)[:2]]
    (grad,) = heads(TEXT + IMAGE)
    yield "joint", lambda: norm_rope._launch(*joint, [weight] * 4, angle, angle, 1e-6)
    yield "single", lambda: norm_rope._launch(*single, [], [weight] * 2, angle, angle, 1e-6)
    for needs in (False, True):
        yield (
            f"backward, weights {needs}",
            lambda needs=needs: norm_rope._launch_bwd(
                grad, grad, *joint[:2], [weight] * 4, angle, angle, 1e-6, needs
            ),
        )


def _adaln(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    x = torch.empty(2, IMAGE, WIDTH, dtype=dtype, device="meta")
    gate, scale, shift = torch.empty(2, 3 * WIDTH, dtype=dtype, device="meta").chunk(3, dim=1)
    forms = {
        "modulate": (None, None, scale, shift),
        "residual": (gate, x, None, None),
        "residual and modulate": (gate, x, scale, shift),
    }
    for name, (g, u, a, b) in forms.items():
        for clamp in (False, True) if dtype is torch.float16 and g is not None else (False,):
            tail = (1e-6, clamp)
            yield name, lambda g=g, u=u, a=a, b=b, t=tail: adaln._launch(x, g, u, a, b, *t)
            for needs in (False, True):
                wants = [needs and g is not None, *[needs and a is not None] * 2]
                yield (
                    f"{name} backward, vectors {needs}",
                    lambda g=g, u=u, a=a, t=tail, w=wants: adaln._launch_bwd(
                        x if g is not None else None, x if a is not None else None,
                        x, g, u, a, *t, w,
                    ),
                )  # fmt: skip


def _gelu(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    attention = torch.empty(2, IMAGE, WIDTH, dtype=dtype, device="meta")
    mlp = torch.empty(2, IMAGE, 4 * WIDTH, dtype=dtype, device="meta")
    grad = torch.empty(2, IMAGE, 5 * WIDTH, dtype=dtype, device="meta")[..., WIDTH:]
    yield "alone", lambda: gelu._launch(None, mlp)
    yield "concat", lambda: gelu._launch(attention, mlp)
    yield "backward", lambda: gelu._launch_bwd(grad, mlp)


def _cfg_euler(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    x = torch.empty(1, IMAGE, 64, device="meta")
    v = torch.empty(2, IMAGE, 64, dtype=dtype, device="meta")
    keep = torch.empty(1, IMAGE, 4, device="meta")
    for name, blend in {"guided": (None,) * 3, "blended": (keep, x, x)}.items():
        yield name, lambda b=blend: cfg_euler._launch(x, v, *b, 1.0, 0.9, 4.0)
        yield (
            f"{name} backward",
            lambda b=blend: cfg_euler._launch_bwd(x, x, b[0], True, dtype, 1.0, 0.9, 4.0),
        )
    yield "plain", lambda: cfg_euler._launch(x, v[:1], None, None, None, 1.0, 0.9, 4.0)
    yield (
        "plain backward",
        lambda: cfg_euler._launch_bwd(x, x, None, False, dtype, 1.0, 0.9, 4.0),
    )


def inspect(kernel: Any) -> dict[str, Any]:
    """Return what the compiled code takes and does.

    Registers, stack and local memory in bytes, the widest global load in bits, and whether there
    are minima or maxima that make a number of NaN.
    """
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(folder / "cuobjdump"), "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    widths = [
        int(vector or 1) * int(bits)
        for vector, bits in re.findall(
            r"ld\.global[.\w:]*?(?:\.v(\d))?\.b(\d+)\b", kernel.asm["ptx"]
        )
    ]
    return {
        "registers": usage["REG"],
        "stack": usage["STACK"],
        "local": usage["LOCAL"],
        "load_bits": max(widths, default=0),
        "drops_nan": bool(re.search(r"\b(?:min|max)(?:\.ftz)?\.f(?:16|32)", kernel.asm["ptx"])),
        "num_warps": kernel.metadata.num_warps,
    }


def main() -> None:
    """Compile for the types and compute capabilities on the command line."""
    dtypes = [getattr(torch, name) for name in sys.argv[1].split(",")]
    compiled: list[tuple[str, Any]] = []
    plain_run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = plain_run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((self.__name__, kernel))
        return kernel

    JITFunction.run = compile_only
    for capability in map(int, sys.argv[2].split(",")):
        triton.runtime.driver.set_active(AbsentGpu(capability))  # type: ignore[arg-type]
        for dtype in dtypes:
            for launch, call in launches(dtype):
                compiled.clear()
                call()
                for name, kernel in compiled:
                    row = {"kernel": name, "launch": launch, "dtype": str(dtype)[6:]}
                    row |= {"target": capability, **inspect(kernel)}
                    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
