"""A fill model's fingerprint: what is in its files counts, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from onereward.fill.config import ModelConfig
from onereward.fill.fingerprint import fingerprint
from onereward.fill.io import file_digest as module
from onereward.fill.models import FillModels, load_fill_models
from support.adapter_files import make_adapter
from support.bundled_models import BUNDLED, bundled_models

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def load(folder: Path, **changes: Any) -> FillModels:
    return load_fill_models(ModelConfig(folder=str(folder), **changes), torch.device("cpu"))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLED, tmp_path / "copy")


def test_a_copy_of_another_date_is_the_same_model(copied: Path) -> None:
    for path in copied.rglob("*.safetensors"):
        os.utime(path, (1, 1))
    first = fingerprint(bundled_models())
    assert len(first) == 16
    assert fingerprint(load(copied, precision="bf16")) == first
    assert fingerprint(load(copied, transformer=str(copied / WEIGHTS))) == first


def test_changed_weights_and_packing_are_another_model(copied: Path) -> None:
    digests = [fingerprint(load(copied, precision=p)) for p in ("auto", "fp8", "nf4")]
    for component in ("transformer", "vae"):
        path = copied / component / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        weights[max(weights)].flatten()[0] += 1
        save_file(weights, path)
        digests.append(fingerprint(load(copied)))
    assert len(set(digests)) == len(digests)


def test_adapters_count_by_weights_and_strength(tmp_path: Path) -> None:
    base = bundled_models()
    first, second = (make_adapter(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    copy = shutil.copy(first, tmp_path / "same.safetensors")
    os.utime(copy, (1, 1))
    plain, adapted = fingerprint(base), fingerprint(base.with_adapter(first, 1.0))
    assert fingerprint(base.with_adapter(Path(copy), 1.0)) == adapted
    variants = [base.with_adapter(second, 1.0), base.with_adapter(first, 0.5)]
    combined = base.with_adapter(first, 1.0).with_adapter(second, 0.5)
    digests = [plain, adapted, *map(fingerprint, (*variants, combined))]
    assert len(set(digests)) == len(digests)
    assert fingerprint(base.with_adapter(second, 0.5).with_adapter(first, 1.0)) == digests[-1]


def test_large_files_are_read_in_chunks_to_their_end(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNKS", 8)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1024)
    path = copied / WEIGHTS
    first, size = fingerprint(load(copied)), path.stat().st_size
    models = load(copied)
    data = path.read_bytes()
    changes: list[Callable[[bytes], bytes]] = [
        lambda b: b[: size - 1] + bytes([b[-1] ^ 1]),
        lambda b: b[: size * 3 // 7] + bytes(2048) + b[size * 3 // 7 + 2048 :],
    ]
    digests = [first]
    for change in changes:
        path.write_bytes(change(data))
        digests.append(fingerprint(models))
    assert len(set(digests)) == len(digests)
    path.write_bytes(data)
    assert fingerprint(models) == first


def test_a_model_put_together_by_hand_has_none() -> None:
    models = load(BUNDLED)
    models.config = None
    with pytest.raises(ValueError, match="not loaded from files; use a loader node"):
        fingerprint(models)
    models.config = replace(ModelConfig(folder=str(BUNDLED)), kernels="off")
    assert fingerprint(models) == fingerprint(bundled_models())
