"""Train transformer and text encoders together.

`python -m onereward.lab.base_model.transformer config.json`
"""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...training.runs.directory import RunDirectory, TrainState, initial_state
from ...training.runs.loop import Clock, step_generator
from ...training.runs.optimizer_state import flatten_optimizer, restore_optimizer
from .attention import PlainAttention
from .config import FillTrainConfig, training_device
from .models import (
    FillParts,
    build_parts,
    encode_prompts,
    is_modulation,
    load_folder,
    predict_velocity,
)
from .muon import Muon
from .pool import Samples, ScenePool
from .probe import TokenProbe

log = logging.getLogger("onereward.training")

_UNIFORM_SHARE = 0.1
_WEIGHT_DECAY = 0.01


def sample_sigma(config: FillTrainConfig, generator: torch.Generator) -> Tensor:
    """Draw noise levels `[B]` in 0..1: logit-normal, a tenth of them uniform."""
    logits = torch.randn(config.batch_size, generator=generator) * config.sigma_spread
    uniform = torch.rand(config.batch_size, generator=generator)
    is_uniform = torch.rand(config.batch_size, generator=generator) < _UNIFORM_SHARE
    return torch.where(is_uniform, uniform, torch.sigmoid(logits + config.sigma_mean))


def flow_loss(parts: FillParts, samples: Samples, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return the weighted squared error of the velocity, one number per sample `[B]`."""
    level = sigma[:, None, None]
    noisy = (1 - level) * samples.latents + level * noise
    with torch.autocast(noise.device.type, torch.bfloat16), PlainAttention():
        text = encode_prompts(parts, (samples.t5_ids, samples.clip_ids))
        velocity = predict_velocity(parts, noisy, sigma, samples.condition, text)
    error = (velocity.float() - (noise - samples.latents)).square()
    return (error * samples.weight).mean((1, 2))


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon trains a parameter: matrices inside the transformer's blocks."""
    layer = name.removesuffix(".weight")
    in_block = "transformer_blocks." in name
    return in_block and parameter.ndim == 2 and not is_modulation(layer)


class FillTrainer:
    """One run: parts, optimisers, averaged weights and the next step to do."""

    def __init__(self, config: FillTrainConfig) -> None:
        from diffusers import AutoencoderKL

        self.config = config
        vae = AutoencoderKL.from_pretrained(config.vae_folder)
        self.device = training_device(config)
        self.parts = build_parts(config, vae).to(self.device)
        named = self.parts.named_parameters()
        self.probe = None
        if config.probe_weight > 0:
            self.probe = TokenProbe(self.parts).to(self.device)
            named |= {f"probe.{k}": p for k, p in self.probe.named_parameters()}
        self.parameters = named
        matrices = [p for name, p in named.items() if is_matrix(name, p)]
        others = [p for name, p in named.items() if not is_matrix(name, p)]
        self.muon = Muon(matrices, lr=0.0, weight_decay=_WEIGHT_DECAY)
        self.adam = torch.optim.AdamW(
            others, lr=0.0, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY, fused=True
        )
        self.ema = {name: p.detach().clone() for name, p in named.items()}
        self.step = 0

    def learning_scale(self) -> float:
        """Return the current share of the peak learning rates."""
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        left = config.steps - self.step
        return warm * min(1.0, left / max(1, config.decay_steps))

    def train_step(self, samples: Samples) -> Tensor:
        """Do one step and return the samples' losses `[B]`.

        Raises:
            RuntimeError: If the loss is not finite.
        """
        config, scale = self.config, self.learning_scale()
        self.muon.param_groups[0]["lr"] = config.matrix_learning_rate * scale
        self.adam.param_groups[0]["lr"] = config.learning_rate * scale
        generator = step_generator(config.seed, self.step, purpose=6)
        sigma = sample_sigma(config, generator)
        noise = torch.randn(samples.latents.shape, generator=generator)
        samples = samples.to(self.device)
        losses = flow_loss(self.parts, samples, sigma.to(self.device), noise.to(self.device))
        if not torch.isfinite(losses).all():
            raise RuntimeError(
                f"the loss of step {self.step} is not finite; the last checkpoint in "
                f"{config.run_folder} is good: go on from it with a lower learning_rate"
            )
        loss = losses.mean()
        if self.probe:
            loss = loss + config.probe_weight * self.probe.loss(samples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self._average()
        return losses.detach()

    @torch.no_grad()
    def _average(self) -> None:
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
        """Take over weights, averages and, where the state has them, optimiser states."""
        tensors = self._with_fresh(state)
        self._check_fit(tensors)
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
            self.ema[name].copy_(tensors[f"ema.{name}"])
        if any(key.startswith("adam.") for key in tensors):
            restore_optimizer(self.muon, tensors, "muon")
            restore_optimizer(self.adam, tensors, "adam")
        self.step = state.step

    def _with_fresh(self, state: TrainState) -> dict[str, Tensor]:
        """Replace what a run begins anew: what the config names, a probe that there was not."""
        own = {
            f"{kind}.{name}": parameter
            for kind in ("weights", "ema")
            for name, parameter in self.parameters.items()
        }
        is_first = state.step == 0
        fresh = {
            key
            for key in own
            if (key not in state.tensors and ".probe." in key)
            or (is_first and key.endswith(self.config.start_anew))
        }
        return {**state.tensors, **{key: own[key] for key in fresh}}

    def _check_fit(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse weights of another architecture, naming the first that differs."""
        for name, parameter in self.parameters.items():
            found = tensors.get(f"weights.{name}")
            if found is None or found.shape != parameter.shape:
                shape = None if found is None else list(found.shape)
                raise ValueError(
                    f"{self.config.init_from or self.config.run_folder} has {name} as {shape}, "
                    f"this config needs {list(parameter.shape)}; start from a run with the same "
                    "width and blocks"
                )

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the averaged weights into the parts (for export and evaluation)."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.ema[name])


def _first_snapshot(folder: RunDirectory, config: FillTrainConfig) -> TrainState | None:
    """Return what to start from; `init_from` may also name an exported pipeline folder."""
    start = Path(config.init_from)
    if not (config.init_from and (start / "model_index.json").is_file()):
        return initial_state(folder, config)
    stored = folder.load()
    if stored:
        return stored
    weights = load_folder(start).named_parameters()
    tensors: dict[str, Tensor] = {
        f"{kind}.{k}": p for kind in ("weights", "ema") for k, p in weights.items()
    }
    return TrainState(step=0, seconds=0.0, tensors=tensors)


def train_fill(config: FillTrainConfig) -> None:
    """Train until done or out of time; the run folder's checkpoint is the result."""
    torch.set_num_threads(config.threads)
    folder, trainer = RunDirectory(config), FillTrainer(config)
    stored = _first_snapshot(folder, config)
    if stored:
        trainer.restore(stored)
    folder.truncate_metrics(trainer.step)  # a kill leaves lines of steps that are now done again
    clock = Clock(config, stored.seconds if stored else 0.0)
    pool = ScenePool(config, trainer.parts)
    pool.fill_up(trainer.step // config.refresh_every)
    losses = []
    while trainer.step < config.steps and not clock.is_over(trainer.step):
        generator = step_generator(config.seed, trainer.step, purpose=7)
        losses.append(trainer.train_step(pool.draw(config.batch_size, generator)).mean())
        if trainer.step % config.refresh_every == 0:
            pool.renew(trainer.step // config.refresh_every - 1)
        if trainer.step % config.log_every == 0:
            _report(folder, trainer, clock, losses)
            losses = []
        if clock.wants_checkpoint():
            folder.save(trainer.train_state(clock.seconds()))
    folder.save(trainer.train_state(clock.seconds()))


def _report(folder: RunDirectory, trainer: FillTrainer, clock: Clock, losses: list[Tensor]) -> None:
    record = {
        "step": trainer.step,
        "samples": trainer.step * trainer.config.batch_size,
        "seconds": round(clock.seconds(), 1),
        "loss": float(torch.stack(losses).mean()) if losses else float("nan"),
        "learning_scale": trainer.learning_scale(),
    }
    if trainer.probe:
        record["probe"] = trainer.probe.take_mean()
    folder.append_metrics(record)
    log.info("fill %s", record)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_fill(FillTrainConfig.load(arguments.config))


if __name__ == "__main__":
    main()
