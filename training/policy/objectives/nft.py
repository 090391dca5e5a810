"""Negative-aware fine-tuning: learn from one's own images, good and bad, on the forward process.

No gradient passes through the judge or the sampler: any judge will do. The candidates are painted
by the policy's moving average, which is also the old policy of the loss. Source: DiffusionNFT
(arXiv 2509.16117), alg. 1; the reward is the win rate among siblings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....fill.sampling.sampler import add_noise
from ...objectives import negative_aware_loss, optimality, token_mean
from ..samples import Batch
from .flow import sample_levels
from .group import GroupTrainer


class NftTrainer(GroupTrainer):
    """Trains the policy on its average's candidates, each as good or bad as the judges say.

    Example: ``train_policy(replace(config, objective="nft", group_size=8), host)``.
    """

    def train_step(self) -> dict[str, float]:
        """Do one iteration; return loss, gradient norm and how far siblings are apart.

        Raises:
            NonFiniteError: Loss or gradient is not finite; nothing has been changed.
        """
        config, policy = self.config, self.policy
        policy.clear_gradients()
        batches, _ = self.source.draw(self.step, self.processes.rank, self.processes.count)

        # Candidates of the old policy, and how good each is among its siblings.
        with policy.as_average():
            candidates = self.paint(batches)
        spread = self.spread(candidates.rewards)
        goodness = self.goodness(batches, candidates.rewards, spread)

        # A noisy version of every candidate, and what the old policy and the start predict there.
        images = candidates.latents
        batches = [self.fresh_noise(b, x) for b, x in zip(batches, images, strict=True)]
        levels = [sample_levels(batch) for batch in batches]
        noisy = [
            add_noise(image, batch.noise, sigma[:, None, None])
            for image, batch, sigma in zip(images, batches, levels, strict=True)
        ]

        with self.policy_resident(batches):
            with torch.no_grad(), policy.as_average():
                old = [self.predict(*item) for item in zip(batches, noisy, levels, strict=True)]
            start: list[Tensor] = []
            if config.kl_weight:
                with torch.no_grad(), policy.as_start():
                    start = [
                        self.predict(*item) for item in zip(batches, noisy, levels, strict=True)
                    ]

            def losses_of(index: int, batch: Batch) -> Tensor:
                velocity = self.predict(batch, noisy[index], levels[index])
                losses = negative_aware_loss(
                    (velocity, old[index]),
                    batch.noise - images[index],
                    levels[index],
                    goodness[index],
                    config.nft_beta,
                    self.token_weights(batch),
                )
                if start:
                    distance = token_mean((velocity - start[index]).square())
                    losses = losses + config.kl_weight * distance
                return losses

            return self.learn(batches, losses_of, config.batch_size) | {"spread": spread}

    def goodness(self, batches: list[Batch], rewards: list[Tensor], spread: float) -> list[Tensor]:
        """Return r of DiffusionNFT for every candidate, ``[B]`` of every batch, on the device."""
        groups = torch.cat(rewards).reshape(-1, self.config.group_size)  # [G, N]
        flat = optimality(groups, max(spread, 1e-6)).flatten()
        parts = flat.split([len(batch.samples) for batch in batches])
        return [part.to(self.host.device) for part in parts]
