"""The supervised warm-up: learn to paint what is under the mask in the conditions' own images.

Flow matching on masked images, ``E || v(x_sigma, sigma) - (noise - image) ||^2``, with the same
adapter, files and evaluations as the reinforcement learning that may follow. No judge takes part.

Fill and text are learned from the conditions' own images. What an extension continues with, or
what is behind an object to be removed, these do not show; conditions that name a result image do.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ....fill.sampling.guidance import Conditioning
from ..samples import Batch
from .flow import FlowTrainer, sample_levels


class SupervisedTrainer(FlowTrainer):
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
        with self.policy_resident(batches):
            return self.learn(batches, lambda _, b: self.losses(b), self.config.batch_size)

    def losses(self, batch: Batch) -> Tensor:
        """Return the flow-matching loss of every edit, ``[B]``, at a noise level of its own."""
        assert batch.truth is not None, "drawn with the truth for this objective"
        return self.errors(batch, batch.truth, sample_levels(batch))

    def plain(self, sampled: Conditioning) -> Conditioning:
        """Return the conditioning without guidance.

        A model that is sampled without true guidance has guidance distilled into its embedding; 1
        is none there.
        """
        guidance = sampled.guidance
        if guidance is not None and sampled.true_cfg == 1.0 and self.config.guidance < 0:
            guidance = 1.0
        return replace(super().plain(sampled), guidance=guidance)
