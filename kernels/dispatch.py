"""Picks the implementation of an operation per call: the Triton kernel, else plain PyTorch.

Triton is imported at the first use, and only where it can run: it is missing on many machines, and
importing it takes longer than everything else at start-up.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from . import reference
from .constraints import MIN_CAPABILITY, refusals

logger = logging.getLogger("onereward.kernels")

BACKENDS = ("auto", "triton", "reference")
_backend: ContextVar[str] = ContextVar("onereward_kernel_backend", default="auto")


def constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let torch.compile call a function while it traces and take the result as a constant.

    The same as ``torch.compiler.assume_constant_result``, which would import the whole compiler.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


class KernelUnavailable(RuntimeError):  # noqa: N818  (reads as what happened)
    """A demanded kernel cannot run. Example: ``with use_backend('triton'): gelu_tanh(x)``."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the implementation of all operations inside the context.

    Args:
        name: ``auto``: Triton if it accepts the call, else plain PyTorch; ``triton``: raise
            :class:`KernelUnavailable` instead; ``reference``: always plain PyTorch.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; choose one of: {', '.join(BACKENDS)}")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def find(operation: str, tensors: Mapping[str, torch.Tensor | None]) -> Callable[..., Any]:
    """Return the implementation that will compute this call.

    Raises:
        KernelUnavailable: Under ``use_backend("triton")``, with the reasons.
    """
    backend = _backend_name()
    device = next(tensor.device for tensor in tensors.values() if tensor is not None)
    # Triton's interpreter runs on the CPU, but only on demand: it is for tests.
    if backend == "reference" or (backend == "auto" and device.type == "cpu"):
        return getattr(reference, operation)
    reasons = list(refusals(operation, tensors))
    if not reasons and (reason := device_refusal(device.type, device.index)):
        reasons = [reason]
    if not reasons:
        return _kernel(operation)
    if backend == "triton":
        raise KernelUnavailable(f"{operation} cannot run as a Triton kernel: {'; '.join(reasons)}")
    if not torch.compiler.is_compiling():
        _log_once(operation, reasons[0])
    return getattr(reference, operation)


@constant
def _backend_name() -> str:
    return _backend.get()


@constant
def device_refusal(kind: str, index: int | None = None) -> str | None:
    """Return why Triton kernels cannot run on a device; None: they can.

    The interpreter (``TRITON_INTERPRET=1``, for tests) runs them on the CPU.

    Args:
        kind: ``cuda``, ``cpu``, ...
        index: Which of the devices of that kind; None: the current one.
    """
    if kind == "cuda" and index not in (None, torch.cuda.current_device()):
        return f"cuda:{index} is not the current device, on which Triton launches"
    return _device_refusal(kind, index)


@functools.cache
def _device_refusal(kind: str, index: int | None) -> str | None:
    expected = "cpu" if is_interpreted() else "cuda"
    if kind != expected:
        return f"the device is {kind}, but {expected} is expected"
    try:
        importlib.import_module("triton")
    except (ImportError, OSError, RuntimeError) as error:
        return f"Triton is not installed or does not load ({error})"
    return _gpu_refusal(index) if kind == "cuda" else None


def _gpu_refusal(index: int | None) -> str | None:
    if torch.version.hip is not None:
        return "the kernels have not been tried on AMD GPUs"
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        return f"the GPU has compute capability {capability}, but {MIN_CAPABILITY} is expected"
    return _trial("cuda" if index is None else f"cuda:{index}")


def is_interpreted() -> bool:
    """Tell whether kernels run in Triton's interpreter, on the CPU and slowly."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _trial(device: str) -> str | None:
    """Compile and run one kernel: a compiler for its launcher may be missing."""
    x = torch.linspace(-3, 3, 96, device=device).view(1, 3, 32)
    try:
        result = _kernel("gelu_tanh")(x)
    except Exception as error:  # noqa: BLE001  (Triton's own errors share no class with others)
        return f"a trial kernel did not compile ({type(error).__name__}: {error})"
    if not torch.allclose(result, reference.gelu_tanh(x), atol=1e-5):
        return "a trial kernel gave a wrong result"
    return None


def _kernel(operation: str) -> Callable[..., Any]:
    # Written out instead of looked up, because torch.compile traces this function.
    from . import adaln, cfg_euler, gelu, norm_rope

    modules = {
        "qk_norm_rope": norm_rope,
        "joint_qkv_norm_rope": norm_rope,
        "adaln_modulate": adaln,
        "gated_residual": adaln,
        "gated_residual_adaln": adaln,
        "gelu_tanh": gelu,
        "concat_gelu": gelu,
        "cfg_euler_step": cfg_euler,
    }
    return getattr(modules[operation], operation)


@functools.cache
def _log_once(operation: str, reason: str) -> None:
    logger.info("%s runs in plain PyTorch: %s", operation, reason)
