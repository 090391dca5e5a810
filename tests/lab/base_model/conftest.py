"""A base model small enough to train in a test."""

from pathlib import Path

import pytest

from onereward.lab.base_model.config import FillTrainConfig, VaeTrainConfig
from onereward.lab.base_model.vae import build_vae


@pytest.fixture
def vae_config(tmp_path: Path) -> VaeTrainConfig:
    return VaeTrainConfig(
        run_folder=str(tmp_path / "vae"),
        photo_share=0.0,
        block_channels=(8, 8, 8),
        latent_channels=4,
        crop_steps=4,
        full_steps=2,
        crop_batch=2,
        full_batch=1,
        log_every=2,
    )


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported, untrained autoencoder."""
    folder = tmp_path_factory.mktemp("vae")
    config = VaeTrainConfig(
        run_folder=str(folder), photo_share=0.0, block_channels=(8, 8, 8), latent_channels=4
    )
    build_vae(config).save_pretrained(folder / "vae")
    return folder / "vae"


@pytest.fixture
def fill_config(tmp_path: Path, vae_folder: Path) -> FillTrainConfig:
    return FillTrainConfig(
        run_folder=str(tmp_path / "fill"),
        vae_folder=str(vae_folder),
        photo_share=0.0,
        width=32,
        double_blocks=1,
        single_blocks=1,
        steps=6,
        decay_steps=2,
        batch_size=2,
        pool_blocks=2,
        refresh_every=2,
        log_every=2,
    )
