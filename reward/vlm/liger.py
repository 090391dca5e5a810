"""Liger-Kernel's fused norms and feed-forward layers for a judge on a GPU; optional."""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import nn

from ..judge import JudgeError

_APPLY = {
    "qwen2_5_vl": "apply_liger_kernel_to_qwen2_5_vl",
    "qwen2_vl": "apply_liger_kernel_to_qwen2_vl",
}


def check_liger(device: torch.device, model_type: str) -> None:
    """Raise JudgeError if the kernels cannot run here; says what is missing."""
    if model_type not in _APPLY:
        raise JudgeError(
            f"liger_kernel was tried with Qwen2-VL and Qwen2.5-VL alone, but the judge is a "
            f"{model_type} model; switch it off"
        )
    if device.type != "cuda":
        raise JudgeError(
            f"liger_kernel needs a CUDA GPU, but the judge runs on {device.type}; switch it off"
        )
    if importlib.util.find_spec("liger_kernel") is None:
        raise JudgeError(
            "liger_kernel is on, but the package is not installed; install it with: pip install "
            "liger-kernel, or switch it off"
        )


def use_liger(model: nn.Module, model_type: str) -> None:
    """Switch one judge to Liger-Kernel's norms and feed-forward layers.

    The package also replaces classes of transformers for all models to come; those are put back.
    """
    library = importlib.import_module("liger_kernel.transformers")
    name = f"transformers.models.{model_type}.modeling_{model_type}"
    modelling = importlib.import_module(name)
    before = dict(vars(modelling))
    try:
        getattr(library, _APPLY[model_type])(
            rope=False, cross_entropy=False, fused_linear_cross_entropy=False, model=model
        )
    except ImportError as error:
        raise JudgeError(
            f"this liger-kernel does not fit this transformers ({error.name or error}); update "
            "both, or switch liger_kernel off"
        ) from error
    finally:
        vars(modelling).update(before)
