"""The bundled model as single files, in every layout and precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.config import COMPONENTS
from support import checkpoints
from support.bundled_models import BUNDLED

CONFIGS: dict[str, dict[str, Any]] = {
    component: json.loads((BUNDLED / component / "config.json").read_text())
    for component in COMPONENTS
}


@pytest.fixture(scope="session")
def folder_tensors() -> dict[str, checkpoints.Tensors]:
    """The tensors of the bundled model, component by component; read-only."""
    return {component: checkpoints.part_tensors(component) for component in COMPONENTS}


@pytest.fixture(scope="session")
def file_tensors(
    comfy_base: Path, folder_tensors: dict[str, checkpoints.Tensors]
) -> dict[str, checkpoints.Tensors]:
    """The same in the layouts of single files."""
    del comfy_base  # for the import of ComfyUI
    return {
        "transformer": checkpoints.original_transformer(folder_tensors["transformer"]),
        "vae": checkpoints.original_vae(folder_tensors["vae"], CONFIGS["vae"]),
        "text_encoder": checkpoints.comfy_text_encoder(folder_tensors["text_encoder"]),
        "text_encoder_2": folder_tensors["text_encoder_2"],
    }


Write = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def write(
    tmp_path_factory: pytest.TempPathFactory, file_tensors: dict[str, checkpoints.Tensors]
) -> Write:
    """Write a component in a precision, once; return the file."""
    folder = tmp_path_factory.mktemp("files with spaces and ümläute")
    written: dict[tuple[str, str], Path] = {}

    def write_one(component: str, precision: str) -> Path:
        key = component, precision
        if key not in written:
            written[key] = _write(folder, component, precision, file_tensors[component])
        return written[key]

    return write_one


def _write(folder: Path, component: str, precision: str, tensors: checkpoints.Tensors) -> Path:
    path = folder / f"{component} {precision}.safetensors"
    if precision.startswith("Q"):
        path = path.with_suffix(".gguf")
        if component == "text_encoder_2":
            checkpoints.write_gguf(path, checkpoints.gguf_t5(tensors), precision, "t5encoder")
        else:
            checkpoints.write_gguf(path, tensors, precision)
        return path
    if precision == "merged":
        return checkpoints.save(path, {f"model.diffusion_model.{k}": v for k, v in tensors.items()})
    if precision.startswith("scaled"):
        name = "weight_scale" if precision == "scaled new" else "scale_weight"
        return checkpoints.save(path, checkpoints.as_scaled_fp8(tensors, name))
    dtypes = {
        "fp16": torch.float16,
        "fp32": torch.float32,
        "e4m3fn": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
    }
    if precision in dtypes:
        tensors = {key: value.to(dtypes[precision]) for key, value in tensors.items()}
    return checkpoints.save(path, tensors)
