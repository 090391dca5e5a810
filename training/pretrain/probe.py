"""A probe half-way through the transformer: what belongs into each part of the picture.

The velocity alone teaches slowly which letter of the prompt goes where. The probe asks every
picture token after the double blocks for the thing, its colour and the letter's place, so that
prompt and place are bound together early. It is trained with the model and left behind.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...world.marks import MARK_SIZES
from .models import FillParts
from .pool import IGNORED


class TokenProbe(nn.Module):
    """One linear layer on the picture tokens that leave the last double block."""

    def __init__(self, parts: FillParts) -> None:
        super().__init__()
        width = parts.transformer.inner_dim
        self.head = nn.Linear(width, sum(MARK_SIZES))
        # What the tokens carry should decide the first answers, not the probe's chance weights.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._tokens: list[Tensor] = []
        self._losses: list[Tensor] = []
        parts.transformer.transformer_blocks[-1].register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, out: tuple[Tensor, Tensor]) -> None:
        self._tokens = [out[1]]

    def loss(self, marks: Tensor) -> Tensor:
        """Return the mean cross entropy over the tokens of the last call; 0 if all are ignored.

        Args:
            marks: int64 `[B, 3, N]`.
        """
        tokens = self._tokens.pop().to(self.head.weight.dtype)
        logits = self.head(tokens).split(MARK_SIZES, dim=-1)
        count = (marks[:, 0] != IGNORED).sum().clamp(min=1)
        losses = [
            F.cross_entropy(one.flatten(0, 1), mark.flatten(), reduction="sum") / count
            for one, mark in zip(logits, marks.unbind(1), strict=True)
        ]
        loss = torch.stack(losses).mean()
        self._losses.append(loss.detach())
        return loss

    def take_mean(self) -> float:
        """Return the mean loss since the last call, nan if there was none."""
        losses, self._losses = self._losses, []
        return float(torch.stack(losses).mean()) if losses else float("nan")
