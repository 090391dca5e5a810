"""Fixtures of the tests that run in a real server."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.bundled_models import BUNDLED
from support.server import EXAMPLE, ComfyServer
from support.workflows import example_image

RANK = 2


@pytest.fixture
def example(comfyui: ComfyServer) -> str:
    """Put an image with a mask where the templates expect theirs; return its name."""
    example_image().save(comfyui.base_directory / "input" / EXAMPLE)
    return EXAMPLE


@pytest.fixture
def adapter(comfyui: ComfyServer) -> str:
    """Write an adapter for every query projection of the bundled transformer; return its name."""
    generator = torch.Generator().manual_seed(0)
    weights = load_file(next((BUNDLED / "transformer").glob("*.safetensors")))
    tensors = {}
    for key, weight in weights.items():
        if key.endswith("attn.to_q.weight"):
            layer = f"transformer.{key.removesuffix('.weight')}"
            rows, cols = weight.shape
            tensors[f"{layer}.lora_A.weight"] = torch.randn(RANK, cols, generator=generator)
            tensors[f"{layer}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    folder = comfyui.base_directory / "models" / "loras" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "queries.safetensors")
    return "mine/queries.safetensors"
