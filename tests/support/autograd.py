"""What autograd keeps between the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def saved_by_autograd(module: nn.Module) -> Iterator[list[int]]:
    """Collect the sizes in bytes of what autograd keeps beside the module's own weights."""
    weights = {t.untyped_storage().data_ptr() for t in chain(module.parameters(), module.buffers())}
    counted: set[int] = set()
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights | counted:
            counted.add(storage.data_ptr())
            sizes.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def expand_linears(module: nn.Module) -> nn.Module:
    """Put plain layers of the same values in the place of packed ones."""
    from onereward.fill.checkpoint.linear import QuantisedLinear

    for name, layer in list(module.named_modules()):
        if isinstance(layer, QuantisedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            plain.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
            if layer.bias is not None:
                plain.bias = layer.bias
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, plain)
    return module
