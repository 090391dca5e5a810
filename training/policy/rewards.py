"""From predicted latents to the loss, and back to its gradient at the latents.

This is the judges' half of the gradient relay: decoding and judging are a function of x0 alone, so
d loss / d x0 is computed here, and all activations of VAE and judges are gone before the policy's
own backward pass begins. Exact, because x0 is all that the two halves share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.image.canvas import Job
from ...fill.models import FillModels
from ...fill.sampling.latents import decode_latents, unpack_latents, vae_factor
from ...reward.judge import Judge, PairQuestion
from ...reward.judging import VIEWS, View
from ...reward.query import Query
from ..edited_image import EditedImage, EditPair
from ..judge.pairs import Augmentation, ViewPair
from ..objectives import reward_loss
from .config import OFF, WORST, PolicyTrainConfig
from .forecast import reward_bytes
from .samples import Batch, Sample

Scores = dict[str, float]
"""Reward by ``<task>.<dimension>``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RewardOutput:
    """A reward's scores of a batch, and the way up.

    Example: ``output = reward.judge(batch, x0, reference); output.gradient.shape == x0.shape``.
    """

    gradient: Tensor
    """d (sum of the losses) / d x0, shaped like x0."""
    losses: Tensor
    """``[B]``."""
    scores: tuple[Scores, ...]
    """One per edit."""


class Reward(Protocol):
    """Compares what the policy predicts with the reference's image.

    Example: ``reward.judge(batch, x0, reference).losses``.
    """

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
    """Packed latents to the images that are judged; differentiable.

    Example: ``Decoder(models, paste_back=True).images(batch, packed)``.
    """

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
        latents = unpack_latents(packed, *batch.size)  # [B, C, h, w]
        # One at a time: decoding has by far the largest activations of this half.
        return [self._finish(batch.jobs[i], self._decode(row)) for i, row in enumerate(latents)]

    def _decode(self, latents: Tensor) -> Tensor:
        self._on_call()
        return decode_latents(self._models.vae.module, latents[None])[0]

    def _finish(self, job: Job, pixels: Tensor) -> Tensor:
        width, height = job.content
        image = (pixels[:, :height, :width] / 2 + 0.5).clamp(0, 1)
        if not self._paste_back:
            return image
        source = (job.model_input()[0][:, :height, :width] / 2 + 0.5).to(image)
        return torch.lerp(source, image, job.model_alpha().to(image))


class JudgeReward:
    """The paper's reward: ``J_e = max(0, lambda - P("Yes" | evaluated, reference, q_e))``.

    Example: ``JudgeReward(config, models, judges, host).judge(batch, x0, reference)``.
    """

    needs_reference = True

    def __init__(
        self,
        config: PolicyTrainConfig,
        models: FillModels,
        judges: Sequence[Judge],
        host: Host,
    ) -> None:
        self._config, self._models, self._host = config, models, host
        self.judges = judges
        self.decoder = Decoder(models, config.paste_back, host.check_cancelled)
        self.augmentation = Augmentation(shift=config.shift, blur=config.blur, noise=config.noise)

    def judge(self, batch: Batch, x0: Tensor, reference: Tensor) -> RewardOutput:
        """See :class:`Reward`. Source: OneReward, sec. 4.4."""
        components = [self._models.vae, *(c for judge in self.judges for c in judge.components)]
        room = reward_bytes(self._config, self._models, self.judges, batch.size, len(batch.jobs))
        with (
            self._host.resident(*components, activation_bytes=room),
            self._checkpointing(),
            torch.enable_grad(),
        ):
            with torch.no_grad():
                references = self.decoder.images(batch, reference)
            leaf = x0.detach().requires_grad_(True)  # [B, S, 4C]
            candidates = self.decoder.images(batch, leaf)
            answers = self.probabilities(batch, candidates, references)
            losses = torch.stack([reward_loss(p, self._config.reward_cap) for p in answers])
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return RewardOutput(
            gradient=gradient,
            losses=losses.detach(),
            scores=tuple(_scores(s, p) for s, p in zip(batch.samples, answers, strict=True)),
        )

    def probabilities(
        self, batch: Batch, candidates: Sequence[Tensor], references: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return P("Yes") per dimension of every edit, ``[E]`` each; all in one pass per judge.

        Args:
            batch: The edits.
            candidates: The policy's images, ``[3, H, W]`` each, 0..1.
            references: The reference's, likewise.
        """
        pairs: list[EditPair] = []
        for sample, job, candidate, reference in zip(
            batch.samples, batch.jobs, candidates, references, strict=True
        ):
            edited = make_edited_image(sample, job, candidate)
            pairs.append((edited, replace(edited, image=reference)))
        queries = [sample.queries for sample in batch.samples]

        def augment(index: int, views: ViewPair) -> ViewPair:
            return self.augmentation.apply(views, batch.generators[index])

        by_judge = [ask_judge(judge, pairs, queries, self._host, augment) for judge in self.judges]
        by_edit = [torch.stack(answers) for answers in zip(*by_judge, strict=True)]  # [J, E] each
        is_worst = self._config.ensemble == WORST
        return [p.amin(dim=0) if is_worst else p.mean(dim=0) for p in by_edit]

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Recompute activations of VAE and judges where the config asks for it."""
        if self._config.gradient_checkpointing == OFF:
            yield
            return
        vae: Any = self._models.vae.module
        judges: list[Any] = [c.module for judge in self.judges for c in judge.components]
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


def make_edited_image(
    sample: Sample, job: Job, image: Tensor, raw: Tensor | None = None
) -> EditedImage:
    """Return an image ``[3, H, W]`` of an edit, with source and mask at the same size."""
    width, height = job.content
    return EditedImage(
        condition=sample.condition,
        source=(job.model_input()[0][:, :height, :width] / 2 + 0.5).clamp(0, 1),
        mask=(job.model_alpha() > 0.5).float(),
        image=image,
        raw=raw,
    )


def ask_judge(
    judge: Judge,
    pairs: Sequence[EditPair],
    queries: Sequence[Sequence[Query]],
    host: Host,
    augment: Callable[[int, ViewPair], ViewPair] = lambda _, views: views,
) -> list[Tensor]:
    """Return P("Yes" | first, second, q) for every query of every pair, ``[E]`` each.

    Args:
        judge: The judge; it is shown the images as it was in its own training.
        pairs: The first and the second image of every edit; gradients reach the first.
        queries: What is asked about each pair.
        host: Polled for cancel.
        augment: Called with a pair's index and what is about to be shown of it.
    """
    host.check_cancelled()
    kind = judge.notes.get("view", VIEWS[0])
    views = [augment(index, _views(pair, kind)) for index, pair in enumerate(pairs)]
    with torch.no_grad():
        second = judge.encode_images([view.detach() for _, view in views])
    host.check_cancelled()
    first = judge.encode_images([view for view, _ in views])
    sources: list[Any] = [None] * len(pairs)
    if judge.needs_source:
        with torch.no_grad():
            sources = judge.encode_images([edited.source for edited, _ in pairs])
    questions = [
        PairQuestion(first[i], second[i], query, sources[i])
        for i, group in enumerate(queries)
        for query in group
    ]
    host.check_cancelled()
    answers = judge.probabilities(questions)  # [sum of E]
    return list(answers.split([len(group) for group in queries]))


def _views(pair: EditPair, kind: str) -> ViewPair:
    """Return what a judge is shown; a view takes images as nodes do, channels last."""
    source, mask = pair[0].source.permute(1, 2, 0), pair[0].mask
    view = View(kind=kind, mask=mask[None], source=source[None])
    first, second = (view.show(image.image.permute(1, 2, 0)) for image in pair)
    return first, second


def _scores(sample: Sample, answers: Tensor) -> Scores:
    cells = (f"{q.task.value}.{q.dimension.value}" for q in sample.queries)
    return dict(zip(cells, answers.tolist(), strict=True))
