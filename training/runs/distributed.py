"""The processes of a run: one, or many under ``accelerate launch``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

_PATIENCE = timedelta(hours=12)
"""How long processes wait for each other. NCCL's ten minutes would end a run whose first process
evaluates, encodes prompts or saves for longer, while the others have nothing to do."""


class Distributed:
    """Sums and agreements over all processes; with one process everything is itself.

    Example: ``Distributed().any(is_over)`` is true in all processes as soon as it is in one.
    """

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def rank(self) -> int:
        """This process, 0 to count - 1; 0 writes the files."""
        return int(os.environ.get("RANK", "0"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether weights are to be spread over them: ``accelerate launch --use_fsdp``."""
        return self.count > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    @cached_property
    def device(self) -> torch.device:
        """The device of this process."""
        if self.count > 1:
            return self._accelerator.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over all processes."""
        if self.count == 1:
            return
        for tensor in tensors:
            tensor.copy_(self._accelerator.reduce(tensor, "sum"))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process; a meeting point for all of them."""
        if self.count == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        return bool(self._accelerator.reduce(value, "sum") > 0)

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, in order."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()

    @cached_property
    def _accelerator(self) -> Any:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])
