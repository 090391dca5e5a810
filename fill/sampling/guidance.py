"""The transformer as a velocity function, with true classifier-free guidance.

``v = v_neg + true_cfg * (v_pos - v_neg)``: the transformer runs for both prompts at every step, in
one batch or one after the other. Source: OneReward's inference settings (true_cfg 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ..transformer.modulation import ModulationTable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """An encoded prompt. Example: ``encode_prompts(models, ['a red kite'], host)[0]``."""

    sequence: torch.Tensor
    """T5 states ``[L, D]``; ``[B, L, D]`` where every row of a call has its own prompt."""
    pooled_embeds: torch.Tensor
    """CLIP's pooled state ``[P]``, or ``[B, P]``."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Prompt:
        """Return a copy elsewhere."""
        return Prompt(
            sequence=self.sequence.to(device, dtype),
            pooled_embeds=self.pooled_embeds.to(device, dtype),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditioning:
    """What the transformer gets beside noise. Example: ``make_velocity(model, cond, True)``."""

    packed: torch.Tensor
    """Masked-image latents and mask, packed: ``[B, S, 4C + 4ff]``."""
    image_ids: torch.Tensor
    """Positions ``[S, 3]``."""
    positive: Prompt
    negative: Prompt | None
    """None: no classifier-free guidance."""
    true_cfg: float
    guidance: float | None
    """Value of the guidance embedding; None: the model has none."""


def make_velocity(
    transformer: nn.Module,
    cond: Conditioning,
    batched: bool = True,
    on_call: Callable[[], None] | None = None,
    *,
    is_mixed: bool = True,
    table: ModulationTable | None = None,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return ``velocity(x, sigma)`` for packed latents x ``[B, S, 4C]``, float32.

    Args:
        transformer: diffusers' ``FluxTransformer2DModel`` of a Fill model.
        cond: The conditioning, on the transformer's device and in its data type.
        batched: With guidance: both prompts in one call of twice the batch, else two calls.
        on_call: Called before every model call (progress and cancel).
        is_mixed: With guidance: whether to mix the two velocities, or return the negative and the
            positive ones, one batch after the other.
        table: Ready-made modulation for every sigma that will be asked for.
    """
    tick = on_call or (lambda: None)
    prompts = [cond.positive] if cond.negative is None else [cond.negative, cond.positive]

    def call(x: torch.Tensor, sigma: torch.Tensor, start: int, count: int) -> torch.Tensor:
        tick()
        ready = table.at(float(sigma), start, count, x.shape[0]) if table else None
        return _predict(transformer, cond, x, sigma, prompts[start : start + count], ready)

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        count = len(prompts)
        if batched or count == 1:
            v = call(x, sigma, 0, count)
        else:
            v = torch.cat([call(x, sigma, i, 1) for i in range(count)])
        if count == 1 or not is_mixed:
            return v
        v_neg, v_pos = v.chunk(2)
        return v_neg + cond.true_cfg * (v_pos - v_neg)

    return velocity


def _predict(
    transformer: nn.Module,
    cond: Conditioning,
    x: torch.Tensor,
    sigma: torch.Tensor,
    prompts: list[Prompt],
    modulation: dict[str, torch.Tensor] | None,
) -> torch.Tensor:
    batch = x.shape[0]
    # [prompts * B, S, channels of latents, masked image and mask]
    hidden = torch.cat([x.to(cond.packed.dtype), cond.packed], dim=2).repeat(len(prompts), 1, 1)
    rows = hidden.shape[0]
    guidance = None
    if cond.guidance is not None:
        guidance = torch.full((rows,), cond.guidance, device=x.device, dtype=torch.float32)
    # Only a fused transformer takes the argument.
    ready: dict[str, Any] = {} if modulation is None else {"modulation": modulation}
    out = transformer(
        hidden_states=hidden,
        timestep=sigma.to(hidden.device, hidden.dtype).expand(rows),
        guidance=guidance,
        encoder_hidden_states=torch.cat([p.sequence.expand(batch, -1, -1) for p in prompts]),
        pooled_projections=torch.cat([p.pooled_embeds.expand(batch, -1) for p in prompts]),
        txt_ids=torch.zeros(prompts[0].sequence.shape[-2], 3, device=x.device),
        img_ids=cond.image_ids,
        return_dict=False,
        **ready,
    )
    return out[0].float()
