"""The bundled fill model, loaded once per test session."""

from __future__ import annotations

import functools

import torch

from onereward.fill.config import ModelConfig
from onereward.fill.models import FillModels, load_fill_models

from .machine import ROOT

BUNDLED = ROOT / "assets" / "fill"


@functools.cache
def bundled_models() -> FillModels:
    """Return the bundled model in fp32; tests share its weights and must leave them as they are."""
    return load_fill_models(ModelConfig(folder=str(BUNDLED), precision="fp32"), torch.device("cpu"))
