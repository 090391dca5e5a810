"""Looking at held-out conditions while training: is it better, and is it still sound?

A rising reward proves nothing: a policy can paint what pleases the judge. So every now and then
images of conditions that are never learned from are compared with the start's, by the judge, by
one that no gradient has seen, and by plain measures of what a hacked reward leaves behind.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from torch import Tensor

from ....reward.memory import judging_bytes
from ....reward.qwen_vl import QwenJudge
from ...data.conditions import spread
from ..forecast import reward_bytes, shown_pixels
from ..loop import PolicyTrainer
from ..rewards import Decoder, Judged, ask_judge, job_views
from ..samples import Batch, Sample
from .drift import Drift, Shown, measure_drift

_SEEDS = (101, 202)
"""Noises of the looks; the policy and the start get the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalResult:
    """One look."""

    scores: dict[str, float]
    """P(better than the start) by ``look.<cell>`` and ``held_out.<cell>``, and their means."""
    drift: Drift
    rows: list[tuple[Tensor, Tensor, Tensor]]
    """Source, start and policy, ``[H, W, 3]``, 0..1, pasted back; one per condition."""

    def record(self) -> dict[str, float]:
        """Return everything as numbers for the curve."""
        return self.scores | {f"drift.{name}": value for name, value in asdict(self.drift).items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Image:
    sample: Sample
    source: Tensor
    mask: Tensor
    raw: Tensor
    pasted: Tensor


class Monitor:
    """What the looks have come to; goes into the checkpoint."""

    def __init__(
        self, trainer: PolicyTrainer, judges: Sequence[QwenJudge], held_out: QwenJudge | None
    ) -> None:
        config = trainer.config
        self._trainer, self._judges, self._held_out = trainer, judges, held_out
        self._conditions = spread(trainer.source.held_out, config.eval_conditions)
        self._start: list[_Image] = []
        self._complaint: str | None = None
        self.best = -math.inf
        self.stale = 0
        self._step = 0

    @property
    def is_possible(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._conditions) and self._trainer.config.eval_every > 0

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know before the run begins."""
        if self._conditions or not self._trainer.config.eval_every:
            return ()
        return (
            "nothing watches this run, because no condition is held out: one in ten is, by its "
            "name; add conditions, or look at what comes out",
        )

    def is_due(self) -> bool:
        """Whether the step just done is one to look after, and has not been looked after."""
        step, every = self._trainer.step, self._trainer.config.eval_every
        return self.is_possible and step not in (0, self._step) and step % every == 0

    @torch.no_grad()
    def look(self) -> EvalResult:
        """Sample the held-out conditions and compare them with the start."""
        policy = self._trainer.policy
        if not self._start:
            with policy.as_start():
                self._start = self._sample()
        with policy.as_result():
            now = self._sample()
        drift = measure_drift(_shown(self._start), _shown(now))
        look = EvalResult(scores=self._scores(now), drift=drift, rows=self._rows(now))
        self._complaint, self._step = drift.complaint(), self._trainer.step
        return look

    def is_best(self, look: EvalResult) -> bool:
        """Take the look into account; return whether it is the best so far.

        A held-out judge decides where there is one. A look that has drifted is never the best.
        """
        score = look.scores.get("held_out", look.scores.get("look"))
        if score is None:
            return False
        if score > self.best and self._complaint is None:
            self.best, self.stale = score, 0
            return True
        self.stale += 1
        return False

    @property
    def has_drifted(self) -> bool:
        """Whether the last look's images have drifted too far to go on."""
        config = self._trainer.config
        # Supervised learning is meant to move images.
        return config.stop_on_drift and config.needs_reward and self._complaint is not None

    def reason_to_stop(self) -> str | None:
        """Return why the run should stop, for the user, or None."""
        config = self._trainer.config
        if self.has_drifted:
            return f"stopped at step {self._trainer.step}: {self._complaint}"
        if 0 < config.patience <= self.stale:
            return f"stopped at step {self._trainer.step}: no better look for {self.stale} looks"
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs."""
        state = [self.best, self.stale, self._complaint is not None, self._step]
        return {"monitor": torch.tensor(state, dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint; earlier ones do not say when the last look was."""
        if "monitor" in tensors:
            best, stale, drifted, *step = tensors["monitor"].tolist()
            self.best, self.stale = best, int(stale)
            self._step = int(step[0]) if step else self._trainer.step
            self._complaint = "the images had drifted" if drifted else None

    def _sample(self) -> list[_Image]:
        """Return two images per condition, conditions in order, the second noises last."""
        source, made = self._trainer.source, []
        for seed in _SEEDS:
            samples = [source.sample(c, seed + i, 0) for i, c in enumerate(self._conditions)]
            found: dict[str, _Image] = {}
            for batch in source.batches(list(enumerate(samples)), 0):
                found |= {p.sample.condition.name: p for p in self._finish(batch)}
            made += [found[condition.name] for condition in self._conditions]
        return made

    def _finish(self, batch: Batch) -> list[_Image]:
        trainer, models = self._trainer, self._trainer.models
        with trainer.policy_resident([batch]):
            latents = trainer.rollout(batch, batch.noise, len(batch.sigmas) - 1)
        room = reward_bytes(trainer.config, models, (), batch.size, len(batch.jobs))
        with trainer.host.resident(models.vae, activation_bytes=room):
            decoder = Decoder(models, False, trainer.host.check_cancelled)
            raw = decoder.images(batch, latents)
        made = []
        for sample, job, image in zip(batch.samples, batch.jobs, raw, strict=True):
            source, mask = job_views(job)
            pixels = image.cpu()
            made.append(
                _Image(
                    sample=sample,
                    source=source,
                    mask=mask,
                    raw=pixels,
                    pasted=torch.lerp(source, pixels, job.model_alpha()),
                )
            )
        return made

    def _scores(self, now: Sequence[_Image]) -> dict[str, float]:
        each = {f"look.{k}": v for k, v in self._asked(self._judges, now).items()}
        if each:
            each["look"] = fmean(each.values())
        if self._held_out is not None:
            other = self._asked([self._held_out], now)
            each |= {f"held_out.{k}": v for k, v in other.items()}
            each["held_out"] = fmean(other.values())
        return each

    def _asked(self, judges: Sequence[QwenJudge], now: Sequence[_Image]) -> dict[str, float]:
        """Return P(better than the start) by cell, averaged over orders, images and judges."""
        host, values = self._trainer.host, defaultdict(list)
        pixels = max(image.mask.numel() for image in now)
        for judge in judges:
            # Both orders at once.
            room = judging_bytes(judge, shown_pixels(judge, pixels), rows=2)
            with host.resident(judge.component, activation_bytes=room):
                for new, old in zip(now, self._start, strict=True):
                    pair = (new.pasted.to(host.device), old.pasted.to(host.device))
                    both = [
                        Judged(sample=new.sample, pair=shown, mask=new.mask, source=new.source)
                        for shown in (pair, (pair[1], pair[0]))
                    ]
                    forth, back = ask_judge(judge, both, host)
                    for query, p in zip(
                        new.sample.queries, ((forth + 1 - back) / 2).tolist(), strict=True
                    ):
                        values[f"{query.task.value}.{query.dimension.value}"].append(p)
        return {cell: fmean(found) for cell, found in sorted(values.items())}

    def _rows(self, now: Sequence[_Image]) -> list[tuple[Tensor, Tensor, Tensor]]:
        first = zip(now[: len(self._conditions)], self._start, strict=False)
        return [
            (
                new.source.permute(1, 2, 0),
                old.pasted.permute(1, 2, 0),
                new.pasted.permute(1, 2, 0),
            )
            for new, old in first
        ]


def last_scores(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what the last look of a curve said: P(better than the start)."""
    looks = (r for r in reversed(curve) if any(k.startswith("drift.") for k in r))
    return {k: v for k, v in next(looks, {}).items() if k.startswith(("look", "held_out"))}


def _shown(images: Sequence[_Image]) -> list[Shown]:
    half = len(images) // 2
    return [
        Shown(source=a.source, inside=a.mask > 0.5, images=(a.raw, b.raw))
        for a, b in zip(images[:half], images[half:], strict=True)
    ]
