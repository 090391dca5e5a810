"""Gradient checkpointing of the transformer's blocks, if wanted with the attention's output kept.

Attention is the one expensive operation of a block whose output is small: kept, it takes as much
memory as the block's input, and the backward pass recomputes everything else only.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

_ATTENTION = (
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)
"""PyTorch's attention kernels; what other backends compute is recomputed."""


def checkpoint_blocks(transformer: Any, keep_attention: bool = False) -> None:
    """Keep only the inputs of the blocks for the backward pass; gradients stay the same.

    Undone by the transformer's ``disable_gradient_checkpointing()``.

    Args:
        transformer: diffusers' ``FluxTransformer2DModel``, with or without fused kernels.
        keep_attention: Keep the attention's outputs, too: twice the memory, less time.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if keep_attention:
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _choose)
    transformer.enable_gradient_checkpointing(functools.partial(checkpoint, **options))


@functools.cache
def _kept_operations() -> frozenset[Any]:
    operations = (getattr(torch.ops.aten, name, None) for name in _ATTENTION)
    return frozenset(op.default for op in operations if op is not None)


def _choose(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    del context, args, kwargs
    is_kept = operation in _kept_operations()
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
