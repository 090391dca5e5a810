"""Train transformer and text encoders together.

`python -m onereward.lab.base_model.transformer config.json`
"""

import argparse
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ...training.runs.directory import RunDirectory, TrainState
from ...training.runs.loop import RunLoop, step_generator, warmup_scale
from ...training.runs.optimizer_state import flatten_optimizer, restore_optimizer
from .attention import PlainAttention
from .config import FillTrainConfig, training_device
from .models import (
    FillComponents,
    build_components,
    encode_prompts,
    is_modulation,
    load_folder,
    predict_velocity,
)
from .muon import Muon
from .pool import Samples, ScenePool
from .token_probe import TokenProbe

log = logging.getLogger("onereward.training")

_UNIFORM_SHARE = 0.1
_WEIGHT_DECAY = 0.01


def sample_sigma(config: FillTrainConfig, generator: torch.Generator) -> Tensor:
    """Draw noise levels `[B]` in 0..1: logit-normal, a tenth of them uniform."""
    logits = torch.randn(config.batch_size, generator=generator) * config.sigma_spread
    uniform = torch.rand(config.batch_size, generator=generator)
    is_uniform = torch.rand(config.batch_size, generator=generator) < _UNIFORM_SHARE
    return torch.where(is_uniform, uniform, torch.sigmoid(logits + config.sigma_mean))


def flow_loss(components: FillComponents, samples: Samples, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return the weighted squared error of the velocity, one number per sample `[B]`."""
    level = sigma[:, None, None]  # [B, 1, 1]
    noisy = (1 - level) * samples.latents + level * noise
    with torch.autocast(noise.device.type, torch.bfloat16), PlainAttention():
        text = encode_prompts(components, (samples.t5_ids, samples.clip_ids))
        velocity = predict_velocity(components, noisy, sigma, samples.condition, text)
    error = (velocity.float() - (noise - samples.latents)).square()
    return (error * samples.weight).mean((1, 2))


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon trains a parameter: matrices inside the transformer's blocks."""
    layer = name.removesuffix(".weight")
    in_block = "transformer_blocks." in name
    return in_block and parameter.ndim == 2 and not is_modulation(layer)


class FillTrainer:
    """One run: components, optimisers, averaged weights and the next step to do.

    Example: ``FillTrainer(config).train_step(pool.draw(32, generator))``.
    """

    def __init__(self, config: FillTrainConfig) -> None:
        from diffusers import AutoencoderKL

        self.config = config
        vae = AutoencoderKL.from_pretrained(config.vae_folder)
        self.device = training_device(config)
        self.components = build_components(config, vae).to(self.device)
        self.parameters = self.components.named_parameters()
        self.probe = None
        if config.probe_weight > 0:
            self.probe = TokenProbe(self.components).to(self.device)
            self.parameters |= {f"probe.{k}": p for k, p in self.probe.named_parameters()}
        matrices = [p for name, p in self.parameters.items() if is_matrix(name, p)]
        vectors = [p for name, p in self.parameters.items() if not is_matrix(name, p)]
        self.muon = Muon(matrices, lr=0.0, weight_decay=_WEIGHT_DECAY)
        self.adam = torch.optim.AdamW(
            vectors, lr=0.0, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY, fused=True
        )
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.step = 0

    def learning_scale(self) -> float:
        """Return the current share of the peak learning rates."""
        config = self.config
        warmup = warmup_scale(self.step, config.warmup_steps)
        steps_left = config.steps - self.step
        return warmup * min(1.0, steps_left / max(1, config.decay_steps))

    def train_step(self, samples: Samples) -> Tensor:
        """Do one step and return the samples' losses `[B]`.

        Raises:
            RuntimeError: If the loss is not finite.
        """
        # Learning rates of this step.
        config, scale = self.config, self.learning_scale()
        self.muon.param_groups[0]["lr"] = config.matrix_learning_rate * scale
        self.adam.param_groups[0]["lr"] = config.learning_rate * scale
        # Noise levels and noise, drawn on the CPU.
        generator = step_generator(config.seed, self.step, purpose=6)
        sigma = sample_sigma(config, generator)
        noise = torch.randn(samples.latents.shape, generator=generator)
        samples = samples.to(self.device)
        losses = flow_loss(self.components, samples, sigma.to(self.device), noise.to(self.device))
        if not torch.isfinite(losses).all():
            raise RuntimeError(
                f"the loss of step {self.step} is not finite; the last checkpoint in "
                f"{config.run_folder} is good: go on from it with a lower learning_rate"
            )
        # The probe's loss beside the model's.
        loss = losses.mean()
        if self.probe:
            loss = loss + config.probe_weight * self.probe.loss(samples)
        # Update weights and their average.
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self._update_average()
        return losses.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        targets = [self.ema[name] for name in self.parameters]
        torch._foreach_lerp_(targets, list(self.parameters.values()), 1 - decay)

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        tensors = {f"weights.{k}": p for k, p in self.parameters.items()}
        tensors |= {f"ema.{k}": p for k, p in self.ema.items()}
        tensors |= flatten_optimizer(self.muon, "muon") | flatten_optimizer(self.adam, "adam")
        return TrainState(step=self.step, seconds=seconds, tensors=tensors)

    @torch.no_grad()
    def restore(self, state: TrainState) -> None:
        """Load weights, averages and, where the state has them, optimiser states."""
        tensors = self._reinitialized(state)
        self._check_fit(tensors)
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            self.ema[name].copy_(tensors[f"ema.{name}"])
        if any(key.startswith("adam.") for key in tensors):
            restore_optimizer(self.muon, tensors, "muon")
            restore_optimizer(self.adam, tensors, "adam")
        self.step = state.step

    def _reinitialized(self, state: TrainState) -> dict[str, Tensor]:
        """Replace what starts afresh: what the config names, and a probe the state lacks."""
        current = {
            f"{kind}.{name}": parameter
            for kind in ("weights", "ema")
            for name, parameter in self.parameters.items()
        }
        is_first = state.step == 0
        fresh = {
            key: tensor
            for key, tensor in current.items()
            if (key not in state.tensors and ".probe." in key)
            or (is_first and key.endswith(self.config.reinitialize))
        }
        return {**state.tensors, **fresh}

    def _check_fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse weights of another architecture, naming the first that differs."""
        for name, parameter in self.parameters.items():
            stored = tensors.get(f"weights.{name}")
            if stored is None or stored.shape != parameter.shape:
                shape = None if stored is None else list(stored.shape)
                raise ValueError(
                    f"{self.config.init_from or self.config.run_folder} has {name} as {shape}, "
                    f"this config needs {list(parameter.shape)}; start from a run with the same "
                    "width and blocks"
                )

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the averaged weights into the components (for export and evaluation)."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.ema[name])


class FillRun(RunLoop[FillTrainer]):
    """A run of the transformer's training: it draws from a pool that is renewed block by block.

    Example: ``FillRun(RunDirectory(config), FillTrainer(config), config.steps).run()``.
    """

    @cached_property
    def pool(self) -> ScenePool:
        """Encoded scenes; filled for the step that the run begins or goes on with."""
        config = self.trainer.config
        pool = ScenePool(config, self.trainer.components)
        pool.fill_up(self.trainer.step // config.refresh_every)
        return pool

    def initial_state(self) -> TrainState | None:
        """Return what to start from; `init_from` may also name an exported pipeline folder."""
        start = Path(self.trainer.config.init_from)
        if not (self.trainer.config.init_from and (start / "model_index.json").is_file()):
            return super().initial_state()
        stored = self.directory.load()
        if stored:
            return stored
        weights = load_folder(start).named_parameters()
        tensors: dict[str, Tensor] = {
            f"{kind}.{k}": p for kind in ("weights", "ema") for k, p in weights.items()
        }
        return TrainState(step=0, seconds=0.0, tensors=tensors)

    def train_step(self) -> Tensor:
        """Do one step, then renew a block of the pool if it is its turn; return the loss."""
        config, trainer, pool = self.trainer.config, self.trainer, self.pool
        generator = step_generator(config.seed, trainer.step, purpose=7)
        loss = trainer.train_step(pool.draw(config.batch_size, generator)).mean()
        if trainer.step % config.refresh_every == 0:
            pool.renew(trainer.step // config.refresh_every - 1)
        return loss

    def step_metrics(self) -> dict[str, float]:
        """Return samples so far, mean loss since the last line, and the learning rate's share."""
        trainer = self.trainer
        metrics = {
            "samples": trainer.step * trainer.config.batch_size,
            "loss": float(torch.stack(self.records).mean()),
            "learning_scale": trainer.learning_scale(),
        }
        if trainer.probe:
            metrics["probe"] = trainer.probe.take_mean()
        return metrics


def train_fill(config: FillTrainConfig) -> None:
    """Train until done or out of time; the run folder's checkpoint is the result."""
    torch.set_num_threads(config.threads)
    folder, trainer = RunDirectory(config), FillTrainer(config)
    FillRun(folder, trainer, config.steps).run()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_fill(FillTrainConfig.load(arguments.config))


if __name__ == "__main__":
    main()
