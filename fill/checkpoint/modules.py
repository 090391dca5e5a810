"""The library classes that the components of a fill model are built from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def class_of(component: str) -> Any:
    """Return the class of a component of a fill model."""
    if component == "transformer":
        from diffusers import FluxTransformer2DModel

        return FluxTransformer2DModel
    if component == "vae":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    if component == "text_encoder":
        from transformers import CLIPTextModel

        return CLIPTextModel
    from transformers import T5EncoderModel

    return T5EncoderModel


def empty_module(component: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a component without memory for parameters; buffers, which no file holds, are real."""
    from accelerate import init_empty_weights

    cls = class_of(component)
    with torch.inference_mode(False), torch.no_grad(), init_empty_weights(include_buffers=False):
        if component in ("transformer", "vae"):
            return cls.from_config(dict(config))
        module = cls(cls.config_class(**config))
    if component == "text_encoder_2":
        module.encoder.embed_tokens = module.shared  # one embedding under two names
    return module
