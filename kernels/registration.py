"""Registers kernels with PyTorch, so that torch.compile sees one opaque operation each.

``Library.define`` with a plain ``autograd.Function`` around it costs about half the time per call
of ``torch.library.custom_op`` (pytorch issue 177109), and there are some 350 calls per step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "onereward"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def register(schema: str, launch: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an operation and return it.

    Args:
        schema: ``name(arguments) -> results``; results never alias arguments.
        launch: The implementation, for CUDA and (in the interpreter) for the CPU.
        fake: Returns empty results of the right shape, stride and type.
    """
    name = schema.partition("(")[0]
    operations = getattr(torch.ops, NAMESPACE)
    # The package may be loaded twice under two names: as a ComfyUI pack and as an installed one.
    if not hasattr(operations, name):
        tags = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)
        _LIBRARY.define(schema, tags=tags)
        for key in ("CUDA", "CPU"):
            _LIBRARY.impl(name, launch, key)
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    return getattr(operations, name).default
