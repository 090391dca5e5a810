"""Settings of the runs that train the toy base model.

A config file (`configs/vae_finish.json`; what is left out has its default):

    {
      "format": 1,
      "run_folder": "runs/vae_finish",
      "init_from": "runs/vae/checkpoint",
      "seed": 2,
      "log_every": 100,
      "crop_steps": 0,
      "full_steps": 1000,
      "learning_rate": 0.0008,
      "warmup_steps": 10,
      "photo_folders": ["runs/photos"],
      "photo_share": 0.3
    }
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...training.runs.config import RunConfig, require


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRunConfig(RunConfig):
    """What every run has that trains on the world and on photographs.

    Example: ``PhotoRunConfig(run_folder="runs/any", photo_share=0.0)``.
    """

    photo_folders: tuple[str, ...] = ()
    """Where unpacked photo packages lie, besides scikit-image's own data."""
    photo_share: float = 0.3
    """Share of samples on photographs; 0 trains without any."""
    device: str = "cpu"
    """Device of the training: cpu or cuda. Scenes are painted on the CPU, over 1000 a second."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        require(0 <= self.photo_share < 1, f"photo_share is {self.photo_share}; use 0 to 0.99")
        require(self.device in ("cpu", "cuda"), f"device is {self.device!r}; use cpu or cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeTrainConfig(PhotoRunConfig):
    """Training the autoencoder.

    Example: ``VaeTrainConfig(run_folder="runs/vae", photo_share=0.0)``.
    """

    block_channels: tuple[int, ...] = (16, 32, 64)
    """Width of each resolution; every one after the first halves the image."""
    latent_channels: int = 8
    """Channels of the latents."""
    crop_steps: int = 5200
    """Steps on 32x32 crops, which learn faster than whole images."""
    full_steps: int = 700
    """Steps on whole 64x64 images at the end."""
    crop_batch: int = 16
    """Crops per step."""
    full_batch: int = 8
    """Whole images per step."""
    learning_rate: float = 1.5e-3
    """Peak; falls along a cosine."""
    warmup_steps: int = 60
    """Steps of linear warm-up."""
    kl_weight: float = 2e-5
    """Weight of the KL term."""
    edge_weight: float = 0.5
    """Weight of the error of horizontal and vertical differences."""
    colour_weight: float = 1.0
    """Weight of the error of colours averaged over 8x8 pixels."""

    def __post_init__(self) -> None:
        PhotoRunConfig.__post_init__(self)
        require(len(self.block_channels) >= 1, "block_channels is empty; name at least one width")
        odd = [c for c in self.block_channels if c < 8 or c % 8]
        require(not odd, f"block_channels {odd} are no multiples of 8, the size of a norm group")
        require(len(self.block_channels) <= 4, "more than 4 blocks leave no latents of a crop")
        require(self.latent_channels >= 1, "latent_channels must be at least 1")
        require(self.crop_batch >= 1 and self.full_batch >= 1, "batches must be at least 1")
        require(self.crop_steps + self.full_steps >= 1, "there are no steps to train")
        require(self.learning_rate >= 0, f"learning_rate is {self.learning_rate}; use 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class FillTrainConfig(PhotoRunConfig):
    """Training the transformer together with its text encoders.

    Example: ``FillTrainConfig(run_folder="runs/fill", vae_folder="runs/vae/vae")``.
    """

    vae_folder: str
    """Folder of the trained autoencoder."""
    width: int = 128
    """Width of the transformer, a multiple of 32."""
    double_blocks: int = 3
    """Blocks with separate text and image streams."""
    single_blocks: int = 5
    """Blocks with one stream."""
    steps: int = 6000
    """Steps of this run."""
    decay_steps: int = 2000
    """Steps at the end over which the learning rate falls linearly to zero."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    batch_size: int = 32
    """Samples per step."""
    learning_rate: float = 1e-3
    """AdamW's peak, for embeddings, modulation and text encoders."""
    matrix_learning_rate: float = 2e-3
    """Muon's peak, for the matrices of attention and feed-forward layers."""
    task_weights: tuple[float, ...] = (3.0, 2.0, 2.0, 3.0)
    """How often each task is drawn: fill, extend, remove, text."""
    pool_blocks: int = 192
    """Blocks of 64 encoded scenes to draw samples from."""
    refresh_every: int = 10
    """Steps between two renewals of one block."""
    drop_prompt: float = 0.1
    """Share of samples with an empty prompt, for guidance."""
    keep_weight: float = 0.05
    """Weight of the loss outside the mask; inside it is 1."""
    sigma_mean: float = 0.5
    """Mean of the noise level's logit; 0 centres it on half noise."""
    sigma_spread: float = 1.1
    """Standard deviation of that logit."""
    probe_weight: float = 0.0
    """Weight of the probe's loss: half-way through the transformer every image token predicts
    what belongs there (symbol, colour, letter's position), and every letter its position."""
    reinitialize: tuple[str, ...] = ()
    """Weights, by the end of their names, that start afresh and are not taken from `init_from`."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are what is shipped."""

    def __post_init__(self) -> None:
        PhotoRunConfig.__post_init__(self)
        require(
            self.width >= 32 and self.width % 32 == 0, f"width {self.width} is no multiple of 32"
        )
        require(self.double_blocks >= 1, f"double_blocks is {self.double_blocks}; use at least 1")
        require(self.single_blocks >= 1, f"single_blocks is {self.single_blocks}; use at least 1")
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; use at least 1")
        require(self.pool_blocks >= 1, f"pool_blocks is {self.pool_blocks}; use at least 1")
        require(self.refresh_every >= 1, f"refresh_every is {self.refresh_every}; use at least 1")
        require(self.steps >= self.decay_steps >= 0, "decay_steps is more than steps")
        require(0 <= self.drop_prompt < 1, f"drop_prompt is {self.drop_prompt}; use 0 to 0.99")
        require(self.probe_weight >= 0, f"probe_weight is {self.probe_weight}; use 0 or more")
        require(0 <= self.ema_decay < 1, f"ema_decay is {self.ema_decay}; use 0 to 0.9999")
        good = len(self.task_weights) == 4 and min(self.task_weights) >= 0 < sum(self.task_weights)
        require(good, f"task_weights are {self.task_weights}; give four, none below 0, not all 0")


def training_device(config: PhotoRunConfig) -> torch.device:
    """Return the device a config names; RuntimeError if this machine has none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "the config says device cuda, but PyTorch finds no GPU here; install a CUDA build of "
            "PyTorch or set device to cpu"
        )
    return torch.device(config.device)
