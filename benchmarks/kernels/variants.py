"""A FLUX.1-Fill transformer with random weights in three forms: eager, compiled, ours.

All share one set of weights and the same attention backend. Eager and compiled are diffusers' own;
compiled is block by block, the way that compiles fastest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onereward.fill.sampling.guidance import Conditioning, Prompt
from onereward.fill.sampling.latents import position_ids
from onereward.fill.transformer import fused
from onereward.fill.transformer.attention import ORDER, is_hopper

TRUE_CFG = 4.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is built and how much of it is measured.

    Example: ``FLUX.sides == (1024, 512)``.
    """

    config: Mapping[str, Any]
    """Of the transformer."""
    sides: tuple[int, ...]
    """Of the images, in pixels."""
    steps: int
    rounds: int
    text: int = 512
    backend: str = "inductor"
    """What ``torch.compile`` compiles with."""


FLUX = Scale(
    config={
        "in_channels": 384, "out_channels": 64, "num_layers": 19, "num_single_layers": 38,
        "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
        "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
    },
    sides=(1024, 512), steps=50, rounds=10,
)  # fmt: skip
SMALL = Scale(
    config=dict(FLUX.config) | {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 8,
        "axes_dims_rope": (4, 6, 6),
    },
    sides=(16,), steps=2, rounds=1, text=1, backend="eager",
)  # fmt: skip


class Variants:
    """One transformer in three forms with the same weights: eager, compiled, ours.

    Example: ``Variants(SMALL, torch.device("cpu"), torch.float32).models["eager"]``.
    """

    def __init__(self, scale: Scale, device: torch.device, dtype: torch.dtype) -> None:
        self.scale, self.device, self.dtype = scale, device, dtype
        eager = build(scale.config, device, dtype)
        compiled, fused_model = (twin(eager, scale.config) for _ in range(2))
        compiled.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=scale.backend)
        fused.attach(fused_model)
        self.models: dict[str, Any] = {"eager": eager, "compiled": compiled, "ours": fused_model}

    def inputs(self, side: int, batch: int) -> dict[str, Tensor]:
        """Return the arguments of one call."""
        draw, tokens, config = self.draw, (side // 16) ** 2, self.scale.config
        return {
            "hidden_states": draw(batch, tokens, config["in_channels"]),
            "encoder_hidden_states": draw(batch, self.scale.text, config["joint_attention_dim"]),
            "pooled_projections": draw(batch, config["pooled_projection_dim"]),
            "timestep": torch.full((batch,), 0.8, device=self.device, dtype=self.dtype),
            "guidance": torch.ones(batch, device=self.device),
            "img_ids": position_ids(side // 8, side // 8, self.device),
            "txt_ids": torch.zeros(self.scale.text, 3, device=self.device),
        }

    def conditioning(self, side: int) -> Conditioning:
        """Return what an image is made from."""
        config, tokens = self.scale.config, (side // 16) ** 2
        prompts = [
            Prompt(
                sequence=self.draw(self.scale.text, config["joint_attention_dim"], seed=seed),
                pooled_embeds=self.draw(config["pooled_projection_dim"], seed=seed),
            )
            for seed in (1, 2)
        ]
        return Conditioning(
            packed=self.draw(1, tokens, config["in_channels"] - config["out_channels"], seed=3),
            image_ids=position_ids(side // 8, side // 8, self.device),
            positive=prompts[0],
            negative=prompts[1],
            true_cfg=TRUE_CFG,
            guidance=1.0,
        )

    def draw(self, *shape: int, seed: int = 0) -> Tensor:
        """Return normal numbers."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device).to(self.dtype)

    def attention(self) -> AbstractContextManager[Any]:
        """Let diffusers' calls take the attention backend that ours take."""
        if not is_hopper(self.device.type, self.device.index):
            return contextlib.nullcontext()
        from torch.nn.attention import sdpa_kernel

        return sdpa_kernel(ORDER, set_priority=True)

    def attention_names(self, side: int, batch: int) -> dict[str, str]:
        """Name the backend that PyTorch takes, in the order of ours and in its own."""
        from torch.nn.attention import SDPBackend

        heads, dim = (
            self.scale.config["num_attention_heads"],
            self.scale.config["attention_head_dim"],
        )
        q = self.draw(batch, heads, (side // 16) ** 2 + self.scale.text, dim)
        default = SDPBackend(torch._fused_sdp_choice(q, q, q)).name
        with self.attention():
            return {"used": SDPBackend(torch._fused_sdp_choice(q, q, q)).name, "default": default}


def build(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Return a transformer with random weights, made on the device."""
    model = _empty(config).to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-1, 1, generator=generator).mul_(parameter.shape[-1] ** -0.5)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def twin(model: Any, config: Mapping[str, Any]) -> Any:
    """Return another transformer on the same weights."""
    copy = _empty(config)
    copy.load_state_dict(model.state_dict(), assign=True)
    return copy.requires_grad_(False)


def _empty(config: Mapping[str, Any]) -> Any:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(**config).eval().requires_grad_(False)
