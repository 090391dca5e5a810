"""What the objectives share that let the policy paint groups of candidates and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ....fill.memory.plan import vae_bytes
from ....fill.sampling.latents import vae_factor
from ...edited_image import EditedImage
from ..config import WORST
from ..forecast import shown_pixels
from ..rewards import JudgeReward, make_edited_image
from ..samples import Batch
from .flow import FlowTrainer
from .group_reward import win_rates


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaintedImages:
    """What a step has painted. Example: ``candidates = trainer.paint(batches)``."""

    latents: list[Tensor]
    """Packed latents ``[B, S, 4C]`` of every batch."""
    rewards: list[Tensor]
    """Mean win rate of every candidate among its siblings, ``[B]`` of every batch, on the CPU."""


class GroupTrainer(FlowTrainer):
    """Paints ``group_size`` candidates of every edit and has the judges compare them.

    Candidates are sampled as users sample, with true guidance where the settings say so; what is
    learned is the plain velocity. Source: GRPO's groups (arXiv 2402.03300), with win rates as the
    reward, because the judge knows pairs only.
    """

    @property
    def judge_reward(self) -> JudgeReward:
        """The judges, and how images are decoded for them."""
        assert isinstance(self.reward, JudgeReward), "the config refuses another reward"
        return self.reward

    def paint(self, batches: Sequence[Batch]) -> PaintedImages:
        """Sample every edit's image by the model as it is now, and compare the siblings."""
        steps = self.source.settings.steps
        with self.policy_resident(batches), torch.no_grad():
            latents = [self.rollout(batch, batch.noise, steps) for batch in batches]
        places = [
            (batch.samples[row].group, index, row)
            for index, batch in enumerate(batches)
            for row in range(len(batch.samples))
        ]
        images = self._decode(batches, latents)
        rewards = [torch.zeros(len(batch.samples)) for batch in batches]
        for group in sorted({place[0] for place in places}):
            members = [(index, row) for number, index, row in places if number == group]
            rates = self._compare(batches, members, images)  # [N]
            for (index, row), rate in zip(members, rates.tolist(), strict=True):
                rewards[index][row] = rate
        return PaintedImages(latents=latents, rewards=rewards)

    def _decode(self, batches: Sequence[Batch], latents: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the images ``[3, H, W]``, 0..1, of every batch, on the CPU."""
        models, factor = self.models, vae_factor(self.models.vae_config)
        pixels = max(batch.size[0] * batch.size[1] for batch in batches) * factor**2
        room = vae_bytes(models, pixels)
        with self.host.resident(models.vae, activation_bytes=room), torch.no_grad():
            return [
                [image.cpu() for image in self.judge_reward.decoder.images(batch, rows)]
                for batch, rows in zip(batches, latents, strict=True)
            ]

    def _compare(
        self,
        batches: Sequence[Batch],
        members: Sequence[tuple[int, int]],
        images: Sequence[Sequence[Tensor]],
    ) -> Tensor:
        """Return the win rates of one group's candidates, ``[N]``, by all judges."""
        edits: list[EditedImage] = []
        for index, row in members:
            sample, job = batches[index].samples[row], batches[index].jobs[row]
            edits.append(make_edited_image(sample, job, images[index][row]))
        queries = batches[members[0][0]].samples[members[0][1]].queries
        rows, rivals = self.config.micro_batch_size, self.config.num_rivals
        by_judge: list[Tensor] = []
        for judge in self.judge_reward.judges:
            pixels = shown_pixels(judge, edits[0].mask.numel())
            room = judge.working_bytes(pixels, rows=2 * rows)
            with self.host.resident(*judge.components, activation_bytes=room):
                by_judge.append(win_rates(judge, edits, queries, rivals, rows, self.host))
        rates = torch.stack(by_judge)  # [J, N, E]
        rates = rates.amin(dim=0) if self.config.ensemble == WORST else rates.mean(dim=0)
        return rates.mean(dim=1)

    def spread(self, rewards: Sequence[Tensor]) -> float:
        """Return the deviation of rewards from the mean of their group, over all processes."""
        size = self.config.group_size
        flat = [r - r.mean() for r in torch.cat(list(rewards)).split(size)]
        share = torch.cat(flat).square().tolist()
        squares = [value for values in self.processes.gather(share) for value in values]
        return (sum(squares) / len(squares)) ** 0.5

    def fresh_noise(self, batch: Batch, latents: Tensor) -> Batch:
        """Return the batch with new noise, independent of what its images were made from."""
        rows = [torch.randn(latents.shape[1:], generator=g) for g in batch.generators]
        return replace(batch, noise=torch.stack(rows).to(batch.noise))
