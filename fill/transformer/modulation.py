"""The vectors that modulate every norm, made for all steps at once before the first.

They depend on noise level, guidance and pooled prompt alone, and the layers that make them hold
27 % of a FLUX transformer's weights, which would otherwise be read at every call. Where memory is
short those weights stay in host memory and pass through the device once per run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..host import Host
from ..memory.components import Component
from ..sampling.guidance import Conditioning
from .fused import takes_modulation


class ModulationTable:
    """Vectors of all norms for every noise level and prompt of a run.

    Example: ``ModulationTable(transformer, cond, sigmas).at(1.0, 0, 2, batch=1)``.

    Args:
        transformer: A transformer for which :func:`~.fused.takes_modulation` holds.
        cond: Prompts and guidance.
        sigmas: Noise levels that will be asked for.
    """

    def __init__(self, transformer: Any, cond: Conditioning, sigmas: Tensor) -> None:
        prompts = [cond.positive] if cond.negative is None else [cond.negative, cond.positive]
        pooled_prompts = [p.pooled_embeds.reshape(-1, p.pooled_embeds.shape[-1]) for p in prompts]
        self._rows = [p.shape[0] for p in pooled_prompts]
        levels = sigmas.tolist()
        self._first = {level: i * sum(self._rows) for i, level in enumerate(levels)}
        device, dtype = cond.packed.device, cond.packed.dtype
        # In the order of diffusers: rounded to the data type, then scaled.
        times = sigmas.to(device, dtype).repeat_interleave(sum(self._rows)) * 1000
        inputs = [times, torch.cat(pooled_prompts).repeat(len(levels), 1)]
        if cond.guidance is not None:
            guidance = torch.full_like(times, cond.guidance, dtype=torch.float32)
            inputs.insert(1, guidance.to(dtype) * 1000)
        with torch.no_grad():
            embedding = transformer.time_text_embed(*inputs)
            self._vectors = {
                name: norm.linear(norm.silu(embedding))
                for name, norm in modulated_norms(transformer)
            }

    def at(self, sigma: float, start: int, count: int, batch: int) -> dict[str, Tensor]:
        """Return the vectors of one call ``[count * batch, n D]``, by name of the norm.

        Args:
            sigma: One of the noise levels.
            start: First of the call's prompts; negative before positive.
            count: How many prompts it has.
            batch: Rows of each prompt.
        """
        first = self._first[sigma] + sum(self._rows[:start])
        rows = self._rows[start : start + count]
        vectors = {name: v[first : first + sum(rows)] for name, v in self._vectors.items()}
        if all(n == batch for n in rows):
            return vectors
        expanded = {}
        for name, v in vectors.items():
            expanded[name] = torch.cat([prompt.expand(batch, -1) for prompt in v.split(rows)])
        return expanded


def make_table(transformer: Any, cond: Conditioning, sigmas: Tensor) -> ModulationTable | None:
    """Return the table of a run; None if the transformer takes none.

    Nor is there one while these layers learn, or where they come to the device with their blocks.
    """
    if not takes_modulation(transformer) or _is_learning(transformer):
        return None
    if any(_is_elsewhere(norm.linear, cond) for _, norm in modulated_norms(transformer)):
        return None
    return ModulationTable(transformer, cond, sigmas)


def modulated_norms(transformer: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield every norm that has a layer of its own for its vectors, by name."""
    for name, module in transformer.named_modules():
        if hasattr(module, "linear") and hasattr(module, "silu"):
            yield name, module


class HostLinear(nn.Linear):
    """A linear layer with weights in host memory. Example: ``layer.__class__ = HostLinear``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HostLinear:
        # A tensor without values shows what the function would do; all but the device is applied.
        def keep(tensor: Tensor) -> Tensor:
            return tensor.to("cpu", fn(tensor.new_empty(0)).dtype)

        return super()._apply(keep, recurse)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer on the device of the input."""
        bias = None if self.bias is None else self.bias.to(input.device)
        return F.linear(input, self.weight.to(input.device), bias)


def place_modulation(component: Component, host: Host, activation_bytes: int) -> None:
    """Leave the modulation weights in host memory if the rest fits only without them.

    Layers that learn, carry adapters or are quantised stay as they are, and so do all if the
    transformer takes no table: taking the weights over at every call would be slow.

    Args:
        component: The transformer.
        host: Where it will run.
        activation_bytes: Memory that is needed beside the weights.
    """
    layers: list[Any] = [norm.linear for _, norm in modulated_norms(component.module)]
    on_host_bytes = sum(num_bytes(layer) for layer in layers if type(layer) is HostLinear)
    is_short = (
        host.device.type != "cpu"
        and takes_modulation(component.module)
        and not _is_learning(component.module)
        and host.free_bytes(component) - on_host_bytes < activation_bytes
    )
    if not is_short:
        return_modulation(component)
        return
    with torch.inference_mode(False), torch.no_grad():
        for layer in layers:
            if type(layer) is nn.Linear:
                layer.to("cpu").__class__ = HostLinear
                component.num_bytes -= num_bytes(layer)


def return_modulation(component: Component) -> None:
    """Undo :func:`place_modulation`."""
    with torch.inference_mode(False), torch.no_grad():
        for _, norm in modulated_norms(component.module):
            layer = norm.linear
            if type(layer) is HostLinear:
                layer.__class__ = nn.Linear  # type: ignore[assignment]
                layer.to(next(component.module.parameters()).device)
                component.num_bytes += num_bytes(layer)


def num_bytes(layer: nn.Module) -> int:
    """Return the size of a layer's weights, in bytes."""
    return sum(p.numel() * p.element_size() for p in layer.parameters())


def _is_elsewhere(layer: nn.Module, cond: Conditioning) -> bool:
    tensors = chain(layer.parameters(), layer.buffers())
    device = cond.packed.device
    return type(layer) is not HostLinear and any(t.device != device for t in tensors)


def _is_learning(transformer: Any) -> bool:
    modules = [transformer.time_text_embed, *(norm for _, norm in modulated_norms(transformer))]
    return any(p.requires_grad for module in modules for p in module.parameters())
