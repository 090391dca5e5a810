"""The supervised warm-up: learn to paint what is under the mask in the conditions' own images.

Flow matching on masked images, ``E || v(x_sigma, sigma) - (noise - image) ||^2``, with the same
adapter, files and evaluations as the reinforcement learning that may follow. No judge takes part.
Source: rectified flow (arXiv 2209.03003); FLUX.1 Fill's conditioning as in sampling.

Fill and text are learned from the conditions' own images. What an extension continues with, or
what is behind an object to be removed, these do not show; conditions that name a result image do.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...fill.sampling.guidance import Conditioning
from ...fill.sampling.sampler import add_noise
from .loop import PolicyTrainer
from .rewards import RewardOutput
from .samples import Batch


class SupervisedTrainer(PolicyTrainer):
    """Trains the policy on images instead of rewards.

    Example: ``train_policy(replace(config, objective="supervised", judges=()), host)``.
    """

    def train_step(self) -> dict[str, float]:
        """Do one iteration; return loss and gradient norm.

        Raises:
            NonFiniteError: Loss or gradient is not finite; nothing has been changed.
        """
        self.policy.clear_gradients()
        batches, _ = self.source.draw(self.step, self.processes.rank, self.processes.count)
        outputs = []
        with self.policy_resident(batches), torch.enable_grad():
            for batch in batches:
                losses = self.losses(batch)
                (losses.sum() / self.config.batch_size).backward()
                self.policy.accumulate_gradients()
                scores = tuple({} for _ in batch.samples)
                outputs.append(RewardOutput(gradient=losses, losses=losses.detach(), scores=scores))
            return self.update(outputs)

    def losses(self, batch: Batch) -> Tensor:
        """Return the flow-matching loss of every edit, ``[B]``, at a noise level of its own."""
        assert batch.truth is not None, "drawn with the truth for this objective"
        levels = [sample_sigma(batch.sigmas, generator) for generator in batch.generators]
        sigma = torch.tensor(levels, device=batch.noise.device)
        x = add_noise(batch.truth, batch.noise, sigma[:, None, None])  # [B, S, 4C]
        plain = replace(batch, conditioning=self.plain(batch.conditioning))
        velocity = self.model(plain)(x, sigma)
        return (velocity - (batch.noise - batch.truth)).square().mean(dim=(1, 2))

    def plain(self, sampled: Conditioning) -> Conditioning:
        """Return the conditioning without true guidance: what is learned is the plain velocity.

        A model that is sampled without true guidance has guidance distilled into its embedding; 1
        is none there.
        """
        guidance = sampled.guidance
        if guidance is not None and sampled.true_cfg == 1.0 and self.config.guidance < 0:
            guidance = 1.0
        return replace(sampled, negative=None, true_cfg=1.0, guidance=guidance)


def sample_sigma(sigmas: Tensor, generator: torch.Generator) -> float:
    """Return a random level of a sampling schedule: as often as sampling passes it.

    Between two levels of the schedule every level is equally likely.
    """
    position = float(torch.rand((), generator=generator)) * (len(sigmas) - 1)
    index = min(int(position), len(sigmas) - 2)
    return float(torch.lerp(sigmas[index], sigmas[index + 1], position - index))
