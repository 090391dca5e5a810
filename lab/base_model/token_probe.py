"""A probe on the way through the model: what belongs into each part of the image.

The velocity alone teaches slowly which letter of the prompt goes where. After the double blocks
the probe predicts from every image token the symbol, its colour and the letter's position; after
the T5 it predicts from every letter of the prompt its position in the word. FLUX gives prompt
tokens no position, so the T5 alone can encode their order. The probe is trained with the model and
is not exported.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..world.cell_labels import LABEL_SIZES
from ..world.lettering import MAX_LETTERS
from .models import FillComponents
from .pool import IGNORED, Samples


class TokenProbe(nn.Module):
    """A linear layer on the image tokens that leave the last double block, one on the T5's.

    Example: ``probe = TokenProbe(components); flow_loss(...); probe.loss(samples)``.
    """

    def __init__(self, components: FillComponents) -> None:
        super().__init__()
        self.head = nn.Linear(components.transformer.inner_dim, sum(LABEL_SIZES))
        self.word = nn.Linear(components.t5.config.d_model, MAX_LETTERS)
        # Zeros: the tokens decide the first answers, not the probe's random weights.
        for layer in (self.head, self.word):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self._tokens: list[Tensor] = []
        self._losses: list[Tensor] = []
        components.transformer.transformer_blocks[-1].register_forward_hook(self._store_image)
        components.t5.register_forward_hook(self._store_prompt)

    def _store_prompt(self, model: nn.Module, inputs: object, out: Any) -> None:
        self._tokens = [out[0]]

    def _store_image(self, block: nn.Module, inputs: object, out: tuple[Tensor, Tensor]) -> None:
        self._tokens = [self._tokens[0], out[1]]

    def loss(self, samples: Samples) -> Tensor:
        """Return the mean cross entropy over the tokens of the last call; 0 if all are ignored."""
        prompt, image = (tokens.to(self.head.weight.dtype) for tokens in self._tokens)
        self._tokens = []
        answers = self.head(image).split(LABEL_SIZES, dim=-1)  # [B, N, size] each
        losses = [
            _cross_entropy(logits, labels)
            for logits, labels in zip(answers, samples.cell_labels.unbind(1), strict=True)
        ]
        losses.append(_cross_entropy(self.word(prompt), samples.letter_positions))
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
