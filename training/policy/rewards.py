"""From predicted latents to the loss, and back to its gradient at the latents.

This is the judges' half of the gradient relay: decoding and judging are a function of x0 alone, so
d loss / d x0 is computed here, and all activations of VAE and judges are gone before the policy's
own backward pass begins. Exact, because x0 is all that the two halves share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.image.canvas import Job
from ...fill.models import FillModels
from ...fill.sampling.latents import decode_latents, unpack_latents, vae_factor
from ...reward.judging import VIEWS, View
from ...reward.qwen_vl import QwenJudge
from ..judge.pairs import Augmentation
from ..objectives import reward_loss
from .config import OFF, WORST, PolicyTrainConfig
from .forecast import reward_bytes
from .samples import Batch, Sample

Pair = tuple[Tensor, Tensor]
Scores = dict[str, float]
"""Reward by ``<task>.<dimension>``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RewardOutput:
    """What a reward says about a batch."""

    gradient: Tensor
    """d (sum of the losses) / d x0, shaped like x0."""
    losses: Tensor
    """``[B]``."""
    scores: tuple[Scores, ...]
    """One per edit."""


class Reward(Protocol):
    """Compares what the policy predicts with the reference's image."""

    needs_reference: bool
    """Whether the reference takes part at all."""

    def judge(self, batch: Batch, x0: Tensor, reference: Tensor) -> RewardOutput:
        """Return the losses and their gradient.

        Args:
            batch: The edits.
            x0: The policy's prediction, packed latents ``[B, S, 4C]``.
            reference: The reference's, likewise.
        """
        ...


RewardFactory = Callable[[PolicyTrainConfig, FillModels, Host], Reward]
"""Makes a run's reward where it is not the judges'; see ``external_reward``."""


class Decoder:
    """Packed latents to the images that are judged; differentiable."""

    def __init__(
        self, models: FillModels, paste_back: bool, on_call: Callable[[], None] = lambda: None
    ) -> None:
        """Take a fill model; ``on_call`` is called before every image (cancel)."""
        self._models, self._paste_back, self._on_call = models, paste_back, on_call
        self._factor = vae_factor(models.vae_config)

    def images(self, batch: Batch, packed: Tensor) -> list[Tensor]:
        """Return an image ``[3, H, W]``, 0..1, per edit: the crop at the size it is sampled at.

        Pasted back as every node does; alpha is the same, the correction of colours is left out.
        """
        latents = unpack_latents(packed, *batch.size)
        # One at a time: decoding has by far the largest activations of this half.
        return [self._finish(batch, i, self._decode(one)) for i, one in enumerate(latents)]

    def _decode(self, latents: Tensor) -> Tensor:
        self._on_call()
        return decode_latents(self._models.vae.module, latents[None])[0]

    def _finish(self, batch: Batch, index: int, pixels: Tensor) -> Tensor:
        job = batch.jobs[index]
        width, height = job.content
        image = (pixels[:, :height, :width] / 2 + 0.5).clamp(0, 1)
        if not self._paste_back:
            return image
        source = (job.model_input()[0][:, :height, :width] / 2 + 0.5).to(image)
        return torch.lerp(source, image, job.model_alpha().to(image))


class JudgeReward:
    """The paper's reward: ``J_e = max(0, lambda - P("Yes" | evaluated, reference, q_e))``."""

    needs_reference = True

    def __init__(
        self,
        config: PolicyTrainConfig,
        models: FillModels,
        judges: Sequence[QwenJudge],
        host: Host,
    ) -> None:
        self._config, self._models, self._judges, self._host = config, models, judges, host
        self.decoder = Decoder(models, config.paste_back, host.check_cancelled)
        self.augmentation = Augmentation(shift=config.shift, blur=config.blur, noise=config.noise)

    def judge(self, batch: Batch, x0: Tensor, reference: Tensor) -> RewardOutput:
        """See :class:`Reward`. Source: OneReward, sec. 4.4."""
        parts = [self._models.vae, *(judge.component for judge in self._judges)]
        room = reward_bytes(self._config, self._models, self._judges, batch.size, len(batch.jobs))
        with (
            self._host.resident(*parts, activation_bytes=room),
            self._checkpointing(),
            torch.enable_grad(),
        ):
            with torch.no_grad():
                second = self.decoder.images(batch, reference)
            leaf = x0.detach().requires_grad_(True)
            first = self.decoder.images(batch, leaf)
            pairs = list(zip(first, second, strict=True))
            answers = self.probabilities(batch, pairs)
            losses = torch.stack([reward_loss(p, self._config.reward_cap) for p in answers])
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return RewardOutput(
            gradient=gradient,
            losses=losses.detach(),
            scores=tuple(_scores(s, p) for s, p in zip(batch.samples, answers, strict=True)),
        )

    def probabilities(self, batch: Batch, pairs: Sequence[Pair]) -> list[Tensor]:
        """Return P("Yes") per dimension of every edit, ``[E]`` each; all in one pass per judge."""
        judged = [
            Judged(sample=sample, pair=pair, mask=mask, source=source)
            for sample, pair, (source, mask) in zip(
                batch.samples, pairs, map(job_views, batch.jobs), strict=True
            )
        ]

        def augment(number: int, shown: Pair) -> Pair:
            return self.augmentation.apply(shown, batch.generators[number])

        each = [ask_judge(judge, judged, self._host, augment) for judge in self._judges]
        joined = [torch.stack(answers) for answers in zip(*each, strict=True)]
        worst = self._config.ensemble == WORST
        return [a.amin(dim=0) if worst else a.mean(dim=0) for a in joined]

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Recompute activations of VAE and judges where the config asks for it."""
        if self._config.gradient_checkpointing == OFF:
            yield
            return
        vae: Any = self._models.vae.module
        judges: list[Any] = [judge.component.module for judge in self._judges]
        vae.enable_gradient_checkpointing()
        for module in judges:
            module.gradient_checkpointing_enable({"use_reentrant": False})
            module.train()  # transformers recomputes only then; these models have no dropout
        try:
            yield
        finally:
            vae.disable_gradient_checkpointing()
            for module in judges:
                module.gradient_checkpointing_disable()
                module.eval()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Two images of one edit, and what a judge may be shown beside them."""

    sample: Sample
    pair: Pair
    """``[3, H, W]`` each, 0..1."""
    mask: Tensor
    """``[H, W]``, binary, 1 = repainted."""
    source: Tensor
    """``[3, H, W]``, 0..1: the image before the edit."""


def job_views(job: Job) -> tuple[Tensor, Tensor]:
    """Return source ``[3, H, W]``, 0..1, and mask ``[H, W]`` of an edit as it is sampled."""
    width, height = job.content
    source = (job.model_input()[0][:, :height, :width] / 2 + 0.5).clamp(0, 1)
    return source, (job.model_alpha() > 0.5).float()


def ask_judge(
    judge: QwenJudge,
    judged: Sequence[Judged],
    host: Host,
    augment: Callable[[int, Pair], Pair] = lambda _, pair: pair,
) -> list[Tensor]:
    """Return P("Yes" | first, second, q) for every query of every edit, ``[E]`` each.

    Args:
        judge: The judge; it is shown the images as it was in its own training.
        judged: The edits; gradients reach their first images.
        host: Polled for cancel.
        augment: Called with an edit's number and the pair that is about to be shown.
    """
    host.check_cancelled()
    kind = judge.notes.get("view", VIEWS[0])
    shown = [augment(number, _shown(one, kind)) for number, one in enumerate(judged)]
    with torch.no_grad():
        second = judge.encode_images([pair[1].detach() for pair in shown])
    host.check_cancelled()
    first = judge.encode_images([pair[0] for pair in shown])
    asked = [
        (first[i], second[i], query) for i, one in enumerate(judged) for query in one.sample.queries
    ]
    host.check_cancelled()
    answers = judge.answer(asked)[:, 0].exp()
    return list(answers.split([len(one.sample.queries) for one in judged]))


def _shown(judged: Judged, kind: str) -> Pair:
    source = judged.source.permute(1, 2, 0)[None]
    view = View(kind=kind, mask=judged.mask[None], source=source)
    first, second = (view.show(image.permute(1, 2, 0)) for image in judged.pair)
    return first, second


def _scores(sample: Sample, answers: Tensor) -> Scores:
    cells = (f"{q.task.value}.{q.dimension.value}" for q in sample.queries)
    return dict(zip(cells, answers.tolist(), strict=True))
