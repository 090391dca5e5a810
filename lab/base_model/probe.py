"""A probe on the way through the model: what belongs into each part of the image.

The velocity alone teaches slowly which letter of the prompt goes where. The probe asks every
image token after the double blocks for the thing, its colour and the letter's place, and every
letter of the prompt, after the T5, for its place in the word: FLUX gives prompt tokens no position,
so what the T5 does not say about order nobody knows. It is trained with the model and left behind.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..world.cell_labels import MARK_SIZES
from ..world.lettering import MAX_LETTERS
from .models import FillParts
from .pool import IGNORED, Samples


class TokenProbe(nn.Module):
    """A linear layer on the image tokens that leave the last double block, one on the T5's."""

    def __init__(self, parts: FillParts) -> None:
        super().__init__()
        self.head = nn.Linear(parts.transformer.inner_dim, sum(MARK_SIZES))
        self.word = nn.Linear(parts.t5.config.d_model, MAX_LETTERS)
        # What the tokens carry should decide the first answers, not the probe's chance weights.
        for layer in (self.head, self.word):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self._tokens: list[Tensor] = []
        self._losses: list[Tensor] = []
        parts.transformer.transformer_blocks[-1].register_forward_hook(self._keep_image)
        parts.t5.register_forward_hook(self._keep_prompt)

    def _keep_prompt(self, model: nn.Module, inputs: object, out: Any) -> None:
        self._tokens = [out[0]]

    def _keep_image(self, block: nn.Module, inputs: object, out: tuple[Tensor, Tensor]) -> None:
        self._tokens = [self._tokens[0], out[1]]

    def loss(self, samples: Samples) -> Tensor:
        """Return the mean cross entropy over the tokens of the last call; 0 if all are ignored."""
        prompt, image = (tokens.to(self.head.weight.dtype) for tokens in self._tokens)
        self._tokens = []
        answers = self.head(image).split(MARK_SIZES, dim=-1)
        losses = [
            _cross_entropy(*one) for one in zip(answers, samples.marks.unbind(1), strict=True)
        ]
        losses.append(_cross_entropy(self.word(prompt), samples.places))
        loss = torch.stack(losses).mean()
        self._losses.append(loss.detach())
        return loss

    def take_mean(self) -> float:
        """Return the mean loss since the last call, nan if there was none."""
        losses, self._losses = self._losses, []
        return float(torch.stack(losses).mean()) if losses else float("nan")


def _cross_entropy(logits: Tensor, answers: Tensor) -> Tensor:
    count = (answers != IGNORED).sum().clamp(min=1)
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="sum") / count
