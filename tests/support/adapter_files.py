"""Small LoRA adapters of the bundled fill model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from onereward.training.policy.adapter_file import write_adapter

from .bundled_models import bundled_models

LAYER = "transformer_blocks.0.attn.to_q"


def make_adapter(path: Path, seed: int, rank: int = 2) -> Path:
    """Write an adapter with random weights on one layer; return its file."""
    transformer: Any = bundled_models().transformer.module
    layer = transformer.get_submodule(LAYER)
    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
    weights = {
        f"{LAYER}.lora_{key}.weight": torch.randn(shape, generator=generator)
        for key, shape in shapes.items()
    }
    write_adapter(path, weights, {"step": seed}, 1.0)
    return path
