"""The toy world's oracle as the product's ground truth, and as the reward of a control run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..fill.host import Host
from ..fill.image.canvas import Job
from ..fill.models import FillModels
from ..fill.task import Dimension
from ..training.policy.config import PolicyTrainConfig
from ..training.policy.forecast import reward_bytes
from ..training.policy.rewards import Decoder, RewardOutput
from ..training.policy.samples import Batch, Sample
from . import oracle
from .toy_dataset import sample_scene, scene_of
from .world.conditions import Conditions, join_conditions


class WorldGroundTruth:
    """Scores candidates of scenes of the toy world; implements ``GroundTruth``.

    Example:
        >>> WorldGroundTruth().knows("world-dev-fill-0")
        True
    """

    name = "oracle"

    def knows(self, condition: str) -> bool:
        """Whether a condition is a scene of the toy world."""
        return scene_of(condition) is not None

    def scores(self, condition: str, images: Tensor) -> dict[Dimension, list[float]]:
        """See :class:`~..training.ground_truth.GroundTruth`."""
        scores = oracle.judge(images, _repeat_scene(condition, len(images))).scores
        # A task is judged on some of the dimensions; all others are NaN.
        columns = {name: column for name, column in scores.items() if not column.isnan().any()}
        return {Dimension(name): column.tolist() for name, column in columns.items()}

    def usable(self, condition: str, images: Tensor) -> list[bool]:
        """See :class:`~..training.ground_truth.GroundTruth`."""
        return oracle.judge(images, _repeat_scene(condition, len(images))).usable.tolist()


def _repeat_scene(condition: str, num: int) -> Conditions:
    """Return the scene of a condition ``num`` times, one per candidate."""
    return _scene_of(condition).select(torch.zeros(num, dtype=torch.long))


def _scene_of(condition: str) -> Conditions:
    scene = sample_scene(condition)
    if scene is None:
        raise ValueError(f"{condition} is no scene of the toy world; the oracle knows no other")
    return scene


class OracleReward:
    """The control experiment: the oracle's own scores of a toy scene as the reward; no judge.

    With this reward quality has to rise; if it does not, the training loop is wrong, not the judge.
    No real user has such a reward, so nothing else may use it.

    Example: ``RunModels(..., reward=OracleReward)``, as the ``RewardFactory`` of a run.
    """

    needs_reference = False

    def __init__(self, config: PolicyTrainConfig, models: FillModels, host: Host) -> None:
        self._config, self._models, self._host = config, models, host
        self.decoder = Decoder(models, config.paste_back, host.check_cancelled)

    def judge(self, batch: Batch, x0: Tensor, reference: Tensor) -> RewardOutput:
        """See :class:`Reward`; the loss is 1 - the mean score, and the reference takes no part.

        Raises:
            ValueError: A condition is no scene of the toy world.
        """
        del reference
        # The scenes, drawn again.
        room = reward_bytes(self._config, self._models, (), batch.size, len(batch.jobs))
        scenes = join_conditions(
            [_check_scene(job, s) for job, s in zip(batch.jobs, batch.samples, strict=True)]
        )
        # Scores of the decoded images, and their gradient to the latents.
        with self._host.resident(self._models.vae, activation_bytes=room), torch.enable_grad():
            leaf = x0.detach().requires_grad_(True)
            images = torch.stack(self.decoder.images(batch, leaf)).cpu()  # [B, 3, 64, 64]
            scores = oracle.judge_with_gradient(images, scenes).scores
            losses = 1 - torch.stack(list(scores.values()), 1).nanmean(1)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        # Scores by cell (task and dimension), without those that are NaN.
        names, table = tuple(scores), torch.stack(list(scores.values()), 1).tolist()  # [B, D]
        cells = [
            _cells(sample, names, row) for sample, row in zip(batch.samples, table, strict=True)
        ]
        return RewardOutput(
            gradient=gradient,
            losses=losses.detach(),
            scores=tuple(cells),
        )


def _cells(sample: Sample, names: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    task, pairs = sample.condition.task.value, zip(names, scores, strict=True)
    return {f"{task}.{name}": score for name, score in pairs if not math.isnan(score)}


def _check_scene(job: Job, sample: Sample) -> Conditions:
    """Draw the toy scene of an edit again; it has to be sampled at its own size."""
    name = sample.condition.name
    scene = _scene_of(name)
    height, width = job.canvas.shape[:2]
    if job.content != (width, height):
        raise ValueError(
            f"{name} is {width}x{height} pixels but sampled at {job.content[0]}x{job.content[1]}; "
            f"the oracle's reward needs target_size {width}"
        )
    return scene
