"""Direct preference optimisation: learn from stored pairs, without a judge.

The policy's error on the winner shall fall by more than on the loser, against the reference's: the
start (alg. 1) or the moving average (alg. 2). Pairs of all dimensions count alike; of two that
contradict each other nothing is learned. Source: Diffusion-DPO (arXiv 2311.12908), for rectified
flow Flow-DPO (arXiv 2501.13918).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...objectives import dpo_loss
from ..samples import Batch
from .flow import FlowTrainer, sample_levels


class DpoTrainer(FlowTrainer):
    """Trains the policy on preference pairs.

    Example: ``train_policy(replace(config, objective="dpo", preferences_folder="data"), host)``.
    """

    def train_step(self) -> dict[str, float]:
        """Do one iteration; return loss, gradient norm and the share of pairs told apart.

        Raises:
            NonFiniteError: Loss or gradient is not finite; nothing has been changed.
        """
        self.policy.clear_gradients()
        batches, _ = self.source.draw(self.step, self.processes.rank, self.processes.count)
        levels = [sample_levels(batch) for batch in batches]
        with self.policy_resident(batches):
            # The reference first, all of it: it may stand in the policy's own parameters.
            with torch.no_grad(), self.policy.as_reference():
                references = [self.pair_errors(b, s) for b, s in zip(batches, levels, strict=True)]
            gains: list[Tensor] = []

            def losses_of(index: int, batch: Batch) -> Tensor:
                errors = self.pair_errors(batch, levels[index])  # [B, 2]
                gains.append((references[index] - errors).detach())
                return dpo_loss(errors, references[index], self.config.dpo_beta)

            record = self.learn(batches, losses_of, self.config.batch_size)
        return record | {"told_apart": self.mean_over_processes(torch.cat(gains))}

    def pair_errors(self, batch: Batch, sigma: Tensor) -> Tensor:
        """Return the velocity's error on winner and loser, ``[B, 2]``, at the same noise."""
        assert batch.truth is not None, "drawn with both images for this objective"
        assert batch.loser is not None, "drawn with both images for this objective"
        images = (batch.truth, batch.loser)
        return torch.stack([self.errors(batch, image, sigma) for image in images], dim=1)

    def mean_over_processes(self, gains: Tensor) -> float:
        """Return the share of pairs whose winner gained more than its loser."""
        won = (gains[:, 0] > gains[:, 1]).tolist()
        everywhere = [flag for share in self.processes.gather(won) for flag in share]
        return sum(everywhere) / len(everywhere)
