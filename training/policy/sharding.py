"""All weights of a policy spread over the processes of a run (FSDP2), for mode ``full``.

Every process holds a share of each tensor, of its float32 copy, average and optimiser state, and
borrows the rest block by block while the model computes. Whoever asks for whole tensors, for a
checkpoint or a result, has to do so in all processes at once.

Source: PyTorch, ``torch.distributed.fsdp.fully_shard``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..runs.config import require
from ..runs.distributed import Distributed
from .config import ADAM, LORA, PolicyTrainConfig


def make_sharding(config: PolicyTrainConfig, processes: Distributed) -> Sharding | None:
    """Return how a run's weights are spread; None if every process holds all of them.

    Raises:
        ValueError: The processes would not make the same model calls, so they would wait for ever.
    """
    if not processes.shards or config.mode == LORA:
        return None
    require(
        config.batch_size % processes.count == 0,
        f"batch_size is {config.batch_size}, but {processes.count} processes share the weights and "
        "need as many edits each; choose a multiple",
    )
    for name, needed in (("micro_batch_size", 1), ("reference_pool", 0), ("optimizer", ADAM)):
        value = getattr(config, name)
        require(
            value == needed,
            f"{name} is {value}, but weights that are spread over processes (FSDP) need {needed}",
        )
    return Sharding(processes)


class Sharding:
    """One share of everything, here; the others are in the other processes.

    Example: ``make_sharding(config, processes)`` under ``accelerate launch --use_fsdp``.
    """

    def __init__(self, processes: Distributed) -> None:
        self._processes = processes

    def spread(self, module: nn.Module) -> None:
        """Keep only this process's share of a transformer's weights, on its device."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self._processes.device.type, (self._processes.count,))
        model: Any = module
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            fully_shard(block, mesh=mesh)
        # Nothing may stay whole after a call: the next one may be made with other weights.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """Return this process's share of the sum over the processes; FSDP2 makes the mean."""
        assert parameter.grad is not None, "asked for after a backward pass"
        return local_share(parameter.grad) * self._processes.count

    def norm(self, norm: Tensor) -> Tensor:
        """Return the norm of whole gradients from that of this process's shares."""
        square = norm.square()
        self._processes.sum([square])
        return square.sqrt()

    def whole(self, tensors: Mapping[str, Tensor], like: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return tensors in one piece, on the CPU; empty in all processes but the first.

        Args:
            tensors: Shares by name, in the same order in every process.
            like: The parameters that they are shares of; what is not among them is whole already.
        """
        joined: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name in like:
                # One after the other, so that no device holds more than one tensor.
                tensor = _join(tensor, like[name])
            if self._processes.is_main:
                joined[name] = tensor.cpu()
        return joined

    def share(self, whole: Tensor) -> Tensor:
        """Return this process's rows of a tensor that is in one piece."""
        shares, rank = whole.chunk(self._processes.count), self._processes.rank
        return shares[rank] if rank < len(shares) else whole[:0]


def local_share(tensor: Any) -> Tensor:
    """Return what this process holds of a tensor: a share that it may change, or all of it."""
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor.detach()


def _join(share: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import DTensor

    tensor = DTensor.from_local(
        share, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
    return tensor.full_tensor()
