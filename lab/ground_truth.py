"""The toy world's oracle as the product's ground truth, and as the reward of a control run."""

from __future__ import annotations

import math

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
from .toy_dataset import draw_scene, scene_of
from .world.conditions import Conditions, join_conditions


class WorldGroundTruth:
    """Scores candidates of scenes of the toy world; implements ``GroundTruth``."""

    name = "oracle"

    def knows(self, condition: str) -> bool:
        """Whether a condition is a scene of the toy world."""
        return scene_of(condition) is not None

    def scores(self, condition: str, images: Tensor) -> dict[Dimension, list[float]]:
        """See :class:`~..training.ground_truth.GroundTruth`."""
        scores = oracle.judge(images, _repeated(condition, len(images))).scores
        values = {Dimension(name): column.tolist() for name, column in scores.items()}
        return {d: column for d, column in values.items() if math.isfinite(sum(column))}

    def usable(self, condition: str, images: Tensor) -> list[bool]:
        """See :class:`~..training.ground_truth.GroundTruth`."""
        return oracle.judge(images, _repeated(condition, len(images))).usable.tolist()


def _repeated(condition: str, num: int) -> Conditions:
    scene = draw_scene(condition)
    if scene is None:
        raise ValueError(f"{condition} is no scene of the toy world")
    return scene.select(torch.zeros(num, dtype=torch.long))


class OracleReward:
    """The control experiment: the oracle's own scores of a toy scene as the reward; no judge.

    It tells a loop that does not work from a judge that does not: with this reward, quality has to
    rise. It drives a loss with what no real user has, so nothing else may use it. As the
    ``RewardFactory`` of a run: ``RunModels(..., reward=OracleReward)``.
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
        room = reward_bytes(self._config, self._models, (), batch.size, len(batch.jobs))
        scenes = join_conditions(
            [_scene(job, s) for job, s in zip(batch.jobs, batch.samples, strict=True)]
        )
        with self._host.resident(self._models.vae, activation_bytes=room), torch.enable_grad():
            leaf = x0.detach().requires_grad_(True)
            shown = torch.stack(self.decoder.images(batch, leaf)).cpu()
            scores = oracle.judge_with_gradient(shown, scenes).scores
            losses = 1 - torch.stack(list(scores.values()), 1).nanmean(1)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        cells = [{k: float(v[i]) for k, v in scores.items()} for i in range(len(losses))]
        return RewardOutput(
            gradient=gradient,
            losses=losses.detach(),
            scores=tuple(
                {f"{sample.condition.task.value}.{k}": v for k, v in cell.items() if v == v}
                for sample, cell in zip(batch.samples, cells, strict=True)
            ),
        )


def _scene(job: Job, sample: Sample) -> Conditions:
    """Draw the toy scene of an edit again."""
    name = sample.condition.name
    scene = draw_scene(name)
    if scene is None:
        raise ValueError(f"{name} is no scene of the toy world; the oracle knows no other")
    height, width = job.canvas.shape[:2]
    if job.content != (width, height):
        raise ValueError(
            f"{name} is {width}x{height} pixels but sampled at {job.content[0]}x{job.content[1]}; "
            f"the oracle's reward needs target_size {width}"
        )
    return scene
