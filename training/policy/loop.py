"""OneReward's reinforcement learning, alg. 1 and alg. 2: :meth:`PolicyTrainer.train_step`.

Departures from the paper (arXiv 2508.21066, sec. 4.4), each a setting of
:class:`~.policy.config.PolicyTrainConfig` with this default:

======================  =====================  ================================================
setting                 paper                  default here, and why
======================  =====================  ================================================
mode                    all weights            ``lora``: one GPU; every loader reads the file
learning_rate           1e-5                   -1: 1e-4 for a LoRA, 1e-5 for all weights
warmup_steps            not stated             10: Adam's first averages are of too few steps
max_grad_norm           not stated             1.0: one steep step must not undo the others
steps                   about 8000             8000
reward_cap              lambda, not stated     0.9: the value of the trials, the only one tried
t1, t2                  not stated             0.2, 0.95 of the schedule: before, a prediction
                                               is a blur that no judge was trained on
ema_decay               not stated             0.99: an average over the last hundred steps
saved_weights           not stated             ``policy``: a short run hardly shows in ``ema``
sampling_steps,         not stated             -1: the model's recipe, which users sample with
true_cfg, guidance,
target_size
weight_*                fill 50 % incl. text   0.25 each: text is counted by itself
min_judge_accuracy      none                   0.75: cells that the judge cannot judge got worse
ensemble                one judge              ``mean`` of all judges that are given
paste_back              not stated             on: users never see what is painted outside
shift, blur, noise      none                   0, off; against lattices that please the judge
kl_weight               none                   0, off; against drifting away from the start
reference_pool          a reference each time  0, the same; more takes half the time
eval_every, eval_judge  not stated             100: the best checkpoint on held-out edits is kept
                                               and is the result of a run that stops itself
gradient_checkpointing  not stated             ``blocks``: less memory, up to a third slower
======================  =====================  ================================================

The paper draws a t per iteration and does not say whether the edits of a batch share it. Here they
do, so that they pass through the model together; task, condition and noises are each edit's own.

The values were measured on the procedural world with a prototype: LoRA of rank 16, batch 16, 100 to
170 steps; learning rate 1e-4 raised the oracle's scores where the judge was accurate, 5e-4 raised
only the reward. From t1 = 0.5 or 0.75 on, less is spoilt (lab/notes/reinforcement-learning.md).

Colours of judged images are not corrected as :func:`~..fill.pipeline.run_fill` does: the
correction is a function of kept pixels and would only add noise to the comparison.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from ...fill.host import Host
from ...fill.sampling.guidance import make_velocity
from ...fill.sampling.sampler import Velocity, predict_x0, sample
from ...fill.transformer.fused import use_kernels
from ...fill.transformer.modulation import make_table
from ..runs.directory import TrainState
from ..runs.distributed import Distributed
from ..runs.loop import NonFiniteError, warmup_scale
from .config import PolicyTrainConfig
from .forecast import policy_bytes
from .references import ReferenceStore
from .rewards import Reward, RewardOutput
from .samples import Batch, SampleSource
from .weights import Policy


class PolicyTrainer:
    """A policy, what it edits, and what rewards it.

    Example: ``PolicyTrainer(config, policy, source, reward, host, Distributed()).train_step()``.
    """

    def __init__(
        self,
        config: PolicyTrainConfig,
        policy: Policy,
        source: SampleSource,
        reward: Reward,
        host: Host,
        processes: Distributed,
    ) -> None:
        self.config, self.policy, self.source, self.reward = config, policy, source, reward
        self.host, self.processes, self.models = host, processes, policy.models
        self.references = ReferenceStore(Path(config.run_folder) / "references")
        self.step = 0
        self.is_updating = False
        """Whether weights and optimiser are half changed: no state to save."""

    def train_step(self) -> dict[str, float]:
        """Do one iteration; return loss, gradient norm and the mean reward per cell.

        Judging stands between the policy's rollout and its one step with gradient. That step is
        computed twice, so that judge and policy never hold activations at the same time.

        Raises:
            NonFiniteError: Loss or gradient is not finite; nothing has been changed.
        """
        config, policy = self.config, self.policy
        policy.clear_gradients()
        batches, stop_index = self.source.draw(self.step, self.processes.rank, self.processes.count)

        # Rollouts of reference and policy, without gradient: packed latents [B, S, 4C] each.
        with self.policy_resident(batches), torch.no_grad():
            with policy.as_reference():
                references = [self.reference_of(batch) for batch in batches]
            x_t = [self.rollout(batch, batch.noise, stop_index) for batch in batches]
            velocities = [
                self.velocity(b, x, stop_index) for b, x in zip(batches, x_t, strict=True)
            ]
            kl_gradients = self.kl_gradients(batches, x_t, velocities, stop_index)

        # The reward of the predicted x0, and its gradient there.
        outputs = [
            self.reward.judge(batch, predict_x0(x, batch.sigmas[stop_index], v), reference)
            for batch, x, v, reference in zip(batches, x_t, velocities, references, strict=True)
        ]

        # The same velocities once more, with gradient, and back through the policy.
        with self.policy_resident(batches), torch.enable_grad():
            for batch, x, output, kl_gradient in zip(
                batches, x_t, outputs, kl_gradients, strict=True
            ):
                # x0 = x - sigma * velocity, so d loss / d velocity = -sigma * d loss / d x0.
                gradient = kl_gradient - batch.sigmas[stop_index] * output.gradient
                self.velocity(batch, x, stop_index).backward(gradient / config.batch_size)
                policy.accumulate_gradients()
            return self.update(outputs)

    def rollout(self, batch: Batch, noise: Tensor, stop_index: int) -> Tensor:
        """Return x_t: packed latents after ``stop_index`` Euler steps from the noise."""
        sigmas = batch.sigmas[: stop_index + 1]
        with use_kernels(self.models.kernels):
            return sample(self.model(batch, sigmas[:-1]), noise, sigmas)

    def velocity(self, batch: Batch, x: Tensor, stop_index: int) -> Tensor:
        """Return the model's prediction after ``stop_index`` steps, ``[B, S, 4C]``."""
        return self.model(batch)(x, batch.sigmas[stop_index])

    def model(self, batch: Batch, sigmas: Tensor | None = None) -> Velocity:
        """Return the transformer as a velocity function; polls for cancel before every call.

        Args:
            batch: What it is conditioned on.
            sigmas: Noise levels that will be asked for, where they are several and known.
        """
        module, conditioning = self.policy.module, batch.conditioning
        table = None if sigmas is None else make_table(module, conditioning, sigmas)
        return make_velocity(module, conditioning, on_call=self.host.check_cancelled, table=table)

    def policy_resident(self, batches: Sequence[Batch]) -> AbstractContextManager[None]:
        """Have the policy on the device, with room for its step with gradient."""
        room = max(policy_bytes(self.config, self.models, b.noise.shape[:2]) for b in batches)
        return self.host.resident(self.models.transformer, activation_bytes=room)

    def reference_of(self, batch: Batch) -> Tensor:
        """Return the reference's finished latents, packed; the model is the reference now."""
        steps = self.source.settings.steps
        if not self.reward.needs_reference:
            return torch.zeros_like(batch.noise)
        if not self.config.reference_pool:
            return self.rollout(batch, batch.reference_noise, steps)
        missing = [edit for edit in batch.samples if self.references.get(edit) is None]
        for group in self.source.batches(list(enumerate(missing)), self.step):
            rollouts = self.rollout(group, group.reference_noise, steps)  # [B, S, 4C]
            for edit, latents in zip(group.samples, rollouts, strict=True):
                self.references.put(edit, latents)
        references = [self.references.get(edit) for edit in batch.samples]
        stored = [latents for latents in references if latents is not None]
        return torch.stack(stored).to(batch.noise.device)  # [B, S, 4C]

    def kl_gradients(
        self,
        batches: Sequence[Batch],
        x_t: Sequence[Tensor],
        velocities: Sequence[Tensor],
        stop_index: int,
    ) -> list[Tensor]:
        """Return d / d velocity of ``kl_weight * mean((velocity - reference's)^2)``."""
        if not self.config.kl_weight:
            return [torch.zeros_like(v) for v in velocities]
        with self.policy.as_reference():
            references = [
                self.velocity(b, x, stop_index) for b, x in zip(batches, x_t, strict=True)
            ]
        scale = 2 * self.config.kl_weight
        return [scale * (v - w) / v[0].numel() for v, w in zip(velocities, references, strict=True)]

    def update(self, outputs: Sequence[RewardOutput]) -> dict[str, float]:
        """Sum gradients over processes, clip them, do the optimiser's step; return the record."""
        config, policy = self.config, self.policy
        policy.all_reduce_gradients(self.processes)
        record = self.means(outputs)
        norm = policy.clip_gradients(config.max_grad_norm)
        if not math.isfinite(record["loss"] + norm):
            policy.clear_gradients()
            raise NonFiniteError(
                f"step {self.step} gave loss {record['loss']:g} and a gradient of norm {norm:g}; "
                f"nothing was changed, the state before it is kept in {config.run_folder}: go on "
                "from there with a lower learning_rate or another precision"
            )
        # Full rate only in the step after the warm-up.
        scale = warmup_scale(self.step, config.warmup_steps + 1)
        self.is_updating = True
        policy.update(config.peak_rate * scale)
        self.step += 1
        self.is_updating = False
        return record | {"gradient": norm}

    def means(self, outputs: Sequence[RewardOutput]) -> dict[str, float]:
        """Return loss and rewards, averaged over the edits of all processes."""
        records = [
            {"loss": float(loss)} | ({"reward": fmean(scores.values())} if scores else {}) | scores
            for output in outputs
            for loss, scores in zip(output.losses, output.scores, strict=True)
        ]
        values: dict[str, list[float]] = defaultdict(list)
        for record in chain(*self.processes.gather(records)):
            for name, value in record.items():
                values[name].append(value)
        return {name: fmean(column) for name, column in values.items()}

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on exactly."""
        return TrainState(step=self.step, seconds=seconds, tensors=self.policy.tensors())

    def restore(self, state: TrainState) -> None:
        """Go on from there; ValueError if it is of another model."""
        self.policy.restore(state)
        self.step = state.step
