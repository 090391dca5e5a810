"""Evaluation on held-out conditions while training: is the policy better, and is it still sound?

A rising reward proves nothing: a policy can paint what pleases the judge. So every now and then
images of conditions that are never learned from are compared with the start's, by the judge, by
one that no gradient reaches, and by plain measures of what a hacked reward leaves behind.

An evaluation adds to its step's line of ``metrics.jsonl``::

    {"step": 200, ..., "eval.fill.structure": 0.61, "eval": 0.58, "eval_judge.fill.structure": 0.57,
     "eval_judge": 0.55, "drift.brightness": 0.01, "drift.saturation": 0.0,
     "drift.high_frequency": 1.02, "drift.diversity": 0.97, "drift.outside": 0.0}
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from ....reward.judge import Judge
from ...charts.strips import Strip
from ...data.conditions import spread
from ...edited_image import EditedImage, EditPair
from ..forecast import reward_bytes, shown_pixels
from ..loop import PolicyTrainer
from ..rewards import Decoder, ask_judge, make_edited_image
from ..samples import Batch
from .drift import Drift, measure_drift

_SEEDS = (101, 202)
"""Noises of an evaluation; the policy and the start get the same."""
_STATE = "monitor"
"""The tensor in a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalResult:
    """What one evaluation measured.

    Example: ``monitor.evaluate().metrics()["eval"]`` is more than 0.5 where the policy is better.
    """

    scores: dict[str, float]
    """P(better than the start) by ``eval.<cell>`` and ``eval_judge.<cell>``, and their means."""
    drift: Drift
    pairs: list[EditPair]
    """The start's image and the policy's from the first noise; one pair per condition."""

    def metrics(self) -> dict[str, float]:
        """Return everything as numbers for a line of the metrics."""
        return self.scores | {f"drift.{name}": value for name, value in asdict(self.drift).items()}

    def strips(self) -> list[Strip]:
        """Return source, start and policy per condition, to be drawn."""
        return [
            Strip(
                task=start.condition.task.value,
                prompt=start.condition.full_prompt,
                images=tuple(i.permute(1, 2, 0) for i in (start.source, start.image, now.image)),
                mask=start.mask,
            )
            for start, now in self.pairs
        ]


class Monitor:
    """Evaluates the policy, and knows the best evaluation so far; goes into the checkpoint.

    Example: ``Monitor(trainer, judges, eval_judge).evaluate()``.
    """

    def __init__(
        self, trainer: PolicyTrainer, judges: Sequence[Judge], eval_judge: Judge | None
    ) -> None:
        self._trainer, self._judges, self._eval_judge = trainer, judges, eval_judge
        self._conditions = spread(trainer.source.held_out, trainer.config.eval_conditions)
        self._start: list[EditPair] = []
        self._complaint: str | None = None
        self.best = -math.inf
        self.stale = 0
        """Evaluations since the best one."""
        self._step = 0

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know before the run begins."""
        if self._conditions or not self._trainer.config.eval_every:
            return ()
        return (
            "this run is not evaluated, because no condition is held out: one in ten is, by its "
            "name; add conditions, or judge the results yourself",
        )

    @property
    def can_evaluate(self) -> bool:
        """Whether there are held-out conditions, and this step has not been evaluated."""
        return bool(self._conditions) and self._trainer.step != self._step

    def is_due(self) -> bool:
        """Whether to evaluate after the step just done, and it has not been done yet."""
        step, every = self._trainer.step, self._trainer.config.eval_every
        is_possible = bool(self._conditions) and every > 0
        return is_possible and step not in (0, self._step) and step % every == 0

    @torch.no_grad()
    def evaluate(self) -> EvalResult:
        """Sample the held-out conditions and compare them with the start."""
        policy = self._trainer.policy
        if not self._start:
            with policy.as_start():
                self._start = self._sample()
        with policy.as_result():
            now = self._sample()
        drift = measure_drift(self._start, now)
        pairs = [(start[0], edited[0]) for start, edited in zip(self._start, now, strict=True)]
        result = EvalResult(scores=self._scores(now), drift=drift, pairs=pairs)
        self._complaint, self._step = drift.complaint(), self._trainer.step
        return result

    def is_best(self, result: EvalResult) -> bool:
        """Take an evaluation into account; return whether it is the best so far.

        The evaluation judge decides where there is one. Images that have drifted are never best.
        """
        score = result.scores.get("eval_judge", result.scores.get("eval"))
        if score is None:
            return False
        if score > self.best and self._complaint is None:
            self.best, self.stale = score, 0
            return True
        self.stale += 1
        return False

    @property
    def has_drifted(self) -> bool:
        """Whether the images of the last evaluation have drifted too far to go on."""
        config = self._trainer.config
        # Supervised learning is meant to move images.
        return config.stop_on_drift and config.needs_reward and self._complaint is not None

    def reason_to_stop(self) -> str | None:
        """Return why the run should stop, for the user, or None."""
        step = self._trainer.step
        if self.has_drifted:
            return f"stopped at step {step}: {self._complaint}"
        if 0 < self._trainer.config.patience <= self.stale:
            return f"stopped at step {step}: no better evaluation for {self.stale} evaluations"
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs: best score, evaluations since, drift, last step."""
        state = [self.best, self.stale, self._complaint is not None, self._step]
        return {_STATE: torch.tensor(state, dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        if _STATE in tensors:
            self.best, stale, has_drifted, step = tensors[_STATE].tolist()
            self.stale, self._step = int(stale), int(step)
            self._complaint = "the images had drifted" if has_drifted else None

    def _sample(self) -> list[EditPair]:
        """Return the images that the two noises lead to, by condition."""
        first, second = (self._sample_from(seed) for seed in _SEEDS)
        return list(zip(first, second, strict=True))

    def _sample_from(self, seed: int) -> list[EditedImage]:
        source = self._trainer.source
        samples = [source.sample(c, seed + i, 0) for i, c in enumerate(self._conditions)]
        images: dict[str, EditedImage] = {}
        for batch in source.batches(list(enumerate(samples)), 0):
            images |= {image.condition.name: image for image in self._decode(batch)}
        return [images[condition.name] for condition in self._conditions]

    def _decode(self, batch: Batch) -> list[EditedImage]:
        """Return the images of a batch, on the CPU."""
        trainer, models = self._trainer, self._trainer.models
        with trainer.policy_resident([batch]):
            latents = trainer.rollout(batch, batch.noise, len(batch.sigmas) - 1)  # [B, S, 4C]
        room = reward_bytes(trainer.config, models, (), batch.size, len(batch.jobs))
        with trainer.host.resident(models.vae, activation_bytes=room):
            decoder = Decoder(models, False, trainer.host.check_cancelled)
            images = [image.cpu() for image in decoder.images(batch, latents)]  # [3, H, W] each
        edited = []
        for sample, job, raw in zip(batch.samples, batch.jobs, images, strict=True):
            before = make_edited_image(sample, job, raw, raw)
            pasted = torch.lerp(before.source, raw, job.model_alpha())
            edited.append(replace(before, image=pasted))
        return edited

    def _scores(self, now: Sequence[EditPair]) -> dict[str, float]:
        """Return P(better than the start) by cell and on average, of all judges that there are."""
        scores: dict[str, float] = {}
        eval_judges = [self._eval_judge] if self._eval_judge is not None else []
        for name, judges in (("eval", self._judges), ("eval_judge", eval_judges)):
            cells = self._compare(judges, now)
            scores |= {f"{name}.{cell}": score for cell, score in cells.items()}
            if cells:
                scores[name] = fmean(cells.values())
        return scores

    def _compare(self, judges: Sequence[Judge], now: Sequence[EditPair]) -> dict[str, float]:
        """Return P(better than the start) by cell, averaged over orders, images and judges."""
        host, values = self._trainer.host, defaultdict(list)
        pixels = max(first.mask.numel() for first, _ in now)
        for judge in judges:
            # Both orders at once.
            room = judge.working_bytes(shown_pixels(judge, pixels), rows=2)
            with host.resident(*judge.components, activation_bytes=room):
                for index in range(len(_SEEDS)):
                    for edited, start in zip(now, self._start, strict=True):
                        cells = self._ask(judge, edited[index], start[index])
                        for cell, score in cells.items():
                            values[cell].append(score)
        return {cell: fmean(scores) for cell, scores in sorted(values.items())}

    def _ask(self, judge: Judge, edited: EditedImage, start: EditedImage) -> dict[str, float]:
        """Return P(better than the start) by cell of one image, averaged over both orders."""
        host = self._trainer.host
        new = replace(edited, image=edited.image.to(host.device))
        old = replace(edited, image=start.image.to(host.device))
        queries = self._trainer.source.queries_of(edited.condition)
        forth, back = ask_judge(judge, [(new, old), (old, new)], [queries, queries], host)
        scores = ((forth + 1 - back) / 2).tolist()
        cells = [f"{query.task.value}.{query.dimension.value}" for query in queries]
        return dict(zip(cells, scores, strict=True))


def last_scores(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the scores of the last evaluation in a run's metrics: P(better than the start)."""
    for line in reversed(metrics):
        if any(name.startswith("drift.") for name in line):
            return {name: value for name, value in line.items() if name.startswith("eval")}
    return {}
