"""Train the autoencoder: `python -m onereward.lab.base_model.vae config.json`."""

import argparse
import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...training.runs.directory import RunDirectory, TrainState
from ...training.runs.loop import RunLoop, step_generator, warmup_scale
from ...training.runs.optimizer_state import flatten_optimizer, restore_optimizer
from ..world.canvas import SIZE
from ..world.conditions import TASKS, sample_conditions
from ..world.splits import Split
from .config import VaeTrainConfig, training_device
from .photographs import find_photographs, sample_photo_crops

log = logging.getLogger("onereward.training")

_CROP = 32
_PHOTO_CROPS = 4096
_SCENES_PER_DRAW = 96
_STEPS_PER_DRAW = 8  # painting scenes stays cheap beside training
_MASKED_SHARE = 3  # every third image is a source with its masked part grey, as FLUX Fill sees it


def build_vae(config: VaeTrainConfig) -> Any:
    """Return an untrained autoencoder whose weights depend on the seed alone."""
    from diffusers import AutoencoderKL

    depth = len(config.block_channels)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)
        kind: Any = AutoencoderKL
        return kind(
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=config.block_channels,
            layers_per_block=1,
            latent_channels=config.latent_channels,
            norm_num_groups=8,
            sample_size=SIZE,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
            scaling_factor=1.0,
            shift_factor=0.0,
        )


class ImageSource:
    """Images to compress: true results, masked sources and photographs, by index of the draw.

    Example: ``ImageSource(config).draw(0)``  # [N, 3, 64, 64]
    """

    def __init__(self, config: VaeTrainConfig, split: Split = Split.TRAIN) -> None:
        self._split = split
        self._photos = torch.empty(0, 3, SIZE, SIZE, dtype=torch.uint8)
        self._num_photos = 0
        if config.photo_share > 0:
            paths = find_photographs(config.photo_folders, is_held_out=split is not Split.TRAIN)
            generator = step_generator(config.seed, 0, purpose=1)
            self._photos = sample_photo_crops(paths, _PHOTO_CROPS, generator)
            share = config.photo_share
            self._num_photos = round(_SCENES_PER_DRAW * share / (1 - share))

    def draw(self, index: int) -> Tensor:
        """Return pixels float32 `[N, 3, 64, 64]` in -1..1, shuffled."""
        tasks = torch.arange(_SCENES_PER_DRAW) % len(TASKS)
        scenes = sample_conditions(self._split, index, tasks)
        generator = step_generator(0, index, purpose=2)
        masked = scenes.source[::_MASKED_SHARE] * 2 - 1
        masked = masked * (1 - scenes.mask[::_MASKED_SHARE, None])
        rows = torch.randint(max(1, len(self._photos)), (self._num_photos,), generator=generator)
        photos = self._photos[rows].float() / 127.5 - 1
        pixels = torch.cat([scenes.target * 2 - 1, masked, photos])
        return pixels[torch.randperm(len(pixels), generator=generator)]


def _random_crops(pixels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Cut one 32x32 crop from each of `count` images, at a shift shared by the batch."""
    top, left = torch.randint(0, SIZE - _CROP + 1, (2,), generator=generator).tolist()
    rows = torch.randint(0, len(pixels), (count,), generator=generator)
    return pixels[rows, :, top : top + _CROP, left : left + _CROP]


def vae_loss(vae: Any, pixels: Tensor, config: VaeTrainConfig, noise: Tensor) -> Tensor:
    """Reconstruction, edges, local colour and KL; `pixels` `[B, 3, H, W]` in -1..1."""
    with torch.autocast(pixels.device.type, torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * noise
        decoded = vae.decode(latents).sample
    error = decoded.float() - pixels
    edges = (error[..., 1:] - error[..., :-1]).abs().mean()
    edges = edges + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    colour = F.avg_pool2d(error, 8).abs().mean()
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return (
        error.abs().mean()
        + 4 * error.square().mean()
        + config.edge_weight * edges
        + config.colour_weight * colour
        + config.kl_weight * divergence
    )


def _learning_rate(config: VaeTrainConfig, step: int) -> float:
    total = config.crop_steps + config.full_steps
    warmup = warmup_scale(step, config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * step / total))
    return config.learning_rate * warmup * (0.02 + 0.98 * cosine)


@torch.no_grad()
def reconstruction_psnr(vae: Any, pixels: Tensor) -> float:
    """Return the PSNR in dB of encoding and decoding pixels in -1..1."""
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    return float(10 * torch.log10(4 / (decoded - pixels).square().mean()))


@torch.no_grad()
def normalise_latents(vae: Any, pixels: Tensor) -> None:
    """Set the config's shift and scale so that latents of `pixels` have mean 0 and deviation 1."""
    latents = vae.encode(pixels).latent_dist.mode()
    vae.register_to_config(
        scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean())
    )


class VaeTrainer:
    """One run: model, optimiser and the next step to do.

    Example: ``trainer = VaeTrainer(config); trainer.train_step(trainer.batch())``.
    """

    def __init__(self, config: VaeTrainConfig) -> None:
        self.config = config
        self.device = training_device(config)
        self.vae = build_vae(config).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.vae.parameters(), config.learning_rate, (0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.source = ImageSource(config)
        self.step = 0
        self._last_draw = (-1, torch.empty(0))

    def batch(self) -> Tensor:
        """Return the pixels of the next step."""
        index = self.step // _STEPS_PER_DRAW
        if self._last_draw[0] != index:
            self._last_draw = (index, self.source.draw(index))
        pixels = self._last_draw[1]
        generator = step_generator(self.config.seed, self.step, purpose=3)
        if self.step < self.config.crop_steps:
            return _random_crops(pixels, self.config.crop_batch, generator)
        return pixels[torch.randperm(len(pixels), generator=generator)[: self.config.full_batch]]

    def train_step(self, pixels: Tensor) -> float:
        """Do one step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(self.config, self.step)
        scale = 2 ** (len(self.config.block_channels) - 1)
        shape = (len(pixels), self.config.latent_channels, *(s // scale for s in pixels.shape[2:]))
        generator = step_generator(self.config.seed, self.step, purpose=4)
        noise = torch.randn(shape, generator=generator)
        pixels = pixels.to(self.device).contiguous(memory_format=torch.channels_last)
        loss = vae_loss(self.vae, pixels, self.config, noise.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return float(loss.detach())

    def train_state(self, seconds: float) -> TrainState:
        """Return what the run needs to go on."""
        weights = {f"vae.{k}": v for k, v in self.vae.state_dict().items()}
        state = flatten_optimizer(self.optimizer, "adam")
        return TrainState(step=self.step, seconds=seconds, tensors={**weights, **state})

    def restore(self, state: TrainState) -> None:
        """Load a state."""
        weights = {k[4:]: v for k, v in state.tensors.items() if k.startswith("vae.")}
        self.vae.load_state_dict(weights)
        restore_optimizer(self.optimizer, state.tensors, "adam")
        self.step = state.step


class VaeRun(RunLoop[VaeTrainer]):
    """A run of the autoencoder's training.

    Example: ``VaeRun(RunDirectory(config), VaeTrainer(config), steps=5900).run()``.
    """

    @cached_property
    def probe(self) -> Tensor:
        """Held-out images that the reconstruction is measured on, `[N, 3, 64, 64]` in -1..1."""
        return ImageSource(self.trainer.config, Split.DEV).draw(0).to(self.trainer.device)

    def train_step(self) -> float:
        """Do one step; return its loss."""
        return self.trainer.train_step(self.trainer.batch())

    def step_metrics(self) -> dict[str, float]:
        """Return the mean loss since the last line, and how well held-out images come back."""
        return {
            "loss": sum(self.records) / max(1, len(self.records)),
            "dev_psnr_db": reconstruction_psnr(self.trainer.vae, self.probe),
        }


def train_vae(config: VaeTrainConfig) -> Path:
    """Train until done or out of time; return the folder of the exported autoencoder."""
    torch.set_num_threads(config.threads)
    folder = RunDirectory(config)
    trainer = VaeTrainer(config)
    VaeRun(folder, trainer, config.crop_steps + config.full_steps).run()
    normalise_latents(trainer.vae, trainer.source.draw(0).to(trainer.device))
    trainer.vae.save_pretrained(folder.path / "vae")
    return folder.path / "vae"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    log.info("wrote %s", train_vae(VaeTrainConfig.load(arguments.config)))


if __name__ == "__main__":
    main()
