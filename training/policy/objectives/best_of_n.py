"""Rejection-sampling fine-tuning: learn from the best of N of one's own images.

No gradient passes through the judge or the sampler: any judge will do. Source: RAFT (arXiv
2304.06767), with flow matching as the supervised loss; the best is the one that wins most among
its siblings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..samples import Batch
from .flow import sample_levels
from .group import GroupTrainer


class BestOfNTrainer(GroupTrainer):
    """Trains the policy on the winners among its own candidates.

    Example: ``train_policy(replace(config, objective="best_of_n", group_size=8), host)``.
    """

    def train_step(self) -> dict[str, float]:
        """Do one iteration; return loss, gradient norm and how far siblings are apart.

        Raises:
            NonFiniteError: Loss or gradient is not finite; nothing has been changed.
        """
        config = self.config
        self.policy.clear_gradients()
        batches, _ = self.source.draw(self.step, self.processes.rank, self.processes.count)
        candidates = self.paint(batches)
        winners = self.winners(candidates.rewards)
        winner_batches: list[Batch] = []
        images: list[Tensor] = []
        for batch, latents, rows in zip(batches, candidates.latents, winners, strict=True):
            if rows:
                winner_batches.append(self.fresh_noise(batch.rows(rows), latents[rows]))
                images.append(latents[rows])

        def losses_of(index: int, batch: Batch) -> Tensor:
            return self.errors(batch, images[index], sample_levels(batch))

        num_groups = config.batch_size // config.group_size
        with self.policy_resident(winner_batches):
            record = self.learn(winner_batches, losses_of, num_groups)
        return record | {"spread": self.spread(candidates.rewards)}

    def winners(self, rewards: list[Tensor]) -> list[list[int]]:
        """Return the rows of every batch that hold the best of a group; the first of equals."""
        size = self.config.group_size
        groups = torch.cat(rewards).reshape(-1, size)  # [G, N]
        best = {size * i + row for i, row in enumerate(groups.argmax(dim=1).tolist())}
        rows: list[list[int]] = []
        first = 0
        for reward in rewards:
            rows.append([i for i in range(len(reward)) if first + i in best])
            first += len(reward)
        return rows
