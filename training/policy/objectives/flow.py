"""What the objectives share that learn from finished images: flow matching at random levels.

Source: rectified flow (arXiv 2209.03003); FLUX.1 Fill's conditioning as in sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ....fill.sampling.guidance import Conditioning
from ....fill.sampling.sampler import add_noise
from ...objectives import token_mean
from ..loop import PolicyTrainer
from ..rewards import RewardOutput
from ..samples import Batch


class FlowTrainer(PolicyTrainer):
    """Trains the policy on images: those of a data set, or its own.

    Example: ``DpoTrainer(config, policy, source, reward, host, Distributed()).train_step()``.
    """

    def learn(
        self, batches: Sequence[Batch], losses_of: Callable[[int, Batch], Tensor], num_edits: int
    ) -> dict[str, float]:
        """Do the optimiser's step for the mean of some losses; the policy is on its device.

        Args:
            batches: What they are of.
            losses_of: From a batch's index and the batch to its losses, ``[B]``, with gradient.
            num_edits: Losses of all processes together.
        """
        outputs: list[RewardOutput] = []
        with torch.enable_grad():
            for index, batch in enumerate(batches):
                losses = losses_of(index, batch)
                (losses.sum() / num_edits).backward()
                self.policy.accumulate_gradients()
                scores = tuple({} for _ in batch.samples)
                outputs.append(RewardOutput(gradient=losses, losses=losses.detach(), scores=scores))
            return self.update(outputs)

    def plain(self, sampled: Conditioning) -> Conditioning:
        """Return the conditioning without true guidance: what is learned is the plain velocity."""
        return replace(sampled, negative=None, true_cfg=1.0)

    def predict(self, batch: Batch, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the plain velocity ``[B, S, 4C]`` at levels ``[B]``."""
        return self.model(replace(batch, conditioning=self.plain(batch.conditioning)))(x, sigma)

    def errors(self, batch: Batch, image: Tensor, sigma: Tensor) -> Tensor:
        """Return the mean squared error of the velocity at an image's latents, ``[B]``.

        Args:
            batch: The edits; its noise is added.
            image: Packed latents ``[B, S, 4C]``.
            sigma: Noise levels ``[B]``.
        """
        velocity = self.predict(batch, add_noise(image, batch.noise, sigma[:, None, None]), sigma)
        difference = velocity - (batch.noise - image)
        return token_mean(difference.square(), self.token_weights(batch))

    def token_weights(self, batch: Batch) -> Tensor | None:
        """Return the share of every token that is repainted, ``[B, S]``; None: all count alike."""
        if not self.config.mask_loss:
            return None
        # The model's input ends with the mask of every token's pixels.
        return batch.conditioning.packed[..., batch.noise.shape[-1] :].float().mean(dim=-1)


def sample_levels(batch: Batch) -> Tensor:
    """Return a noise level for every edit, ``[B]``, from the edit's own source of randomness."""
    levels = [sample_sigma(batch.sigmas, generator) for generator in batch.generators]
    return torch.tensor(levels, device=batch.noise.device)


def sample_sigma(sigmas: Tensor, generator: torch.Generator) -> float:
    """Return a random level of a sampling schedule: as often as sampling passes it.

    Between two levels of the schedule every level is equally likely.
    """
    position = float(torch.rand((), generator=generator)) * (len(sigmas) - 1)
    index = min(int(position), len(sigmas) - 2)
    return float(torch.lerp(sigmas[index], sigmas[index + 1], position - index))
