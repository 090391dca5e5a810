"""A whole model in one file, as ComfyUI saves it: every component is read from its own part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.checkpoint.component import FileComponent
from onereward.fill.checkpoint.stored_tensors import Reader, StoredTensor
from onereward.fill.config import COMPONENTS, ModelConfig
from onereward.fill.models import load_fill_models
from support import checkpoints
from support.bundled_models import BUNDLED, bundled_models

# Source: ComfyUI, supported_models.py, the prefixes of FLUX when a checkpoint is saved.
PREFIXES = {
    "transformer": "model.diffusion_model.",
    "vae": "vae.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.t5xxl.transformer.",
}


@pytest.fixture(scope="session")
def all_in_one(
    tmp_path_factory: pytest.TempPathFactory, file_tensors: dict[str, checkpoints.Tensors]
) -> Path:
    """The bundled model in one file, under ComfyUI's names."""
    tensors = {
        PREFIXES[component] + key: value
        for component in COMPONENTS
        for key, value in file_tensors[component].items()
    }
    tensors["text_encoders.t5xxl.logit_scale"] = torch.zeros(1)
    return checkpoints.save(tmp_path_factory.mktemp("checkpoints") / "all.safetensors", tensors)


def test_it_holds_what_the_folder_holds(all_in_one: Path):
    paths: dict[str, Any] = dict.fromkeys(COMPONENTS, str(all_in_one))
    config = ModelConfig(folder=str(BUNDLED), precision="fp32", **paths)
    loaded = load_fill_models(config, torch.device("cpu"))
    for component in COMPONENTS:
        truth = dict(getattr(bundled_models(), component).module.named_parameters())
        values = dict(getattr(loaded, component).module.named_parameters())
        assert set(values) == set(truth)
        assert all(torch.equal(values[name], truth[name]) for name in truth), component


@pytest.mark.parametrize("component", COMPONENTS)
def test_only_the_own_part_is_read(
    component: str, all_in_one: Path, monkeypatch: pytest.MonkeyPatch
):
    read_rows, num_bytes = Reader.rows, 0

    def rows(reader: Reader, stored: StoredTensor, start: int, stop: int) -> torch.Tensor:
        nonlocal num_bytes
        num_bytes += (stop - start) * stored.row_bytes
        return read_rows(reader, stored, start, stop)

    monkeypatch.setattr(Reader, "rows", rows)
    base = getattr(bundled_models(), component)
    config = {"transformer": "transformer_config", "vae": "vae_config"}.get(component)
    folder_config = getattr(bundled_models(), config) if config else None
    part = FileComponent(component, all_in_one, folder_config)
    part.load(torch.float32)
    assert num_bytes == 2 * sum(p.numel() for p in base.module.parameters()), "bf16, once each"
