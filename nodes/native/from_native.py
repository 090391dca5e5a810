"""ComfyUI's own MODEL, CLIP and VAE as a fill model of ours: no weight is copied.

ComfyUI's modules compute, behind the calls of the library classes that our engine knows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_base
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...fill.checkpoint.adapters import read_adapter
from ...fill.checkpoint.modules import empty_module
from ...fill.checkpoint.shapes import FLUX_SCHEDULER, FLUX_VAE_CHANNELS
from ...fill.io.files import TensorInfo
from ...fill.memory.components import Component
from ...fill.models import FillModels, check_fit
from ...fill.recipe import Recipe
from ...fill.sampling.latents import pack_latents, unpack_latents, vae_factor
from ..paths import model_files
from .core_sampler import CoreSampler, has_schedule
from .native_model import PATCH
from .native_text import check_clip, encode_text


class NativeModels(FillModels):
    """A fill model whose components ComfyUI has loaded, patched and placed itself.

    LoRAs and patches of the MODEL take effect; our kernels and streaming do not, because ComfyUI's
    modules compute and ComfyUI moves them. Where something is on the MODEL that works on a whole
    sampler, ComfyUI's own samples.

    Example: ``run_fill(request, NativeModels(model, clip, vae, ONEREWARD), host)``.

    Args:
        model: MODEL of FLUX.1 Fill.
        clip: CLIP with CLIP-L and T5.
        vae: FLUX's VAE.
        recipe: Settings of the checkpoint.

    Attributes:
        native: The MODEL, with the LoRAs added here, the CLIP and the VAE.

    Raises:
        ValueError: Another kind of model, or components that do not fit together.
    """

    def __init__(self, model: ModelPatcher, clip: Any, vae: Any, recipe: Recipe) -> None:
        check_clip(clip.tokenize(""))
        sources = native_sources(model, vae)
        sources["transformer"].tensors = _tensors(sources["transformer"].config)
        tokenizers = model_files.tokenizer_folders()
        super().__init__(sources, tokenizers, FLUX_SCHEDULER, recipe, _compute_dtype(model))
        self.transformer = _component("transformer", _Transformer(model), model, self.dtype)
        self.vae = _component("vae", _Vae(vae, self.vae_config), vae.patcher, torch.float32)
        self.encode_texts = lambda texts: _encode_texts(clip, texts, recipe)
        self.native = model, clip, vae
        self.sample_rows = _sampler(model, self.vae_config)
        # Kernels are for the transformer of diffusers, and ComfyUI moves its own layers.
        self.kernels = self.offload = "off"

    def with_adapter(self, path: Path, strength: float) -> NativeModels:
        """Return a copy that shares all weights and has one more LoRA, applied by ComfyUI."""
        weights = read_adapter(path, strength, self.transformer_tensors).weights
        derived = copy.copy(self)
        derived._base = self
        model: Any = self.transformer.handle
        patched, _ = comfy.sd.load_lora_for_models(model, None, dict(weights), strength, 0.0)
        assert patched is not None, "a model was given"
        derived.transformer = _component("transformer", _Transformer(patched), patched, self.dtype)
        derived.native = patched, *self.native[1:]
        derived.sample_rows = _sampler(patched, self.vae_config)
        return derived


class _Source:
    """What our loader would have read from a file's header."""

    is_quantised = False

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self.config = config
        self.tensors: dict[str, TensorInfo] = {}
        self.path = Path(f"the connected {'VAE' if name == 'vae' else 'MODEL'}")

    def tensor_bytes(self, dtype: torch.dtype) -> dict[str, int]:
        """Return nothing: the weights are in memory already."""
        del dtype
        return {}

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Refuse: nothing is loaded here."""
        raise AssertionError(f"{self.name} in {dtype} is ComfyUI's")


def native_sources(model: ModelPatcher, vae: Any) -> dict[str, Any]:
    """Return what our loader would have read of the components of ComfyUI's model.

    Raises:
        ValueError: The MODEL is no FLUX.1 Fill, or the VAE is another model's.
    """
    kind = type(model.model).__name__
    if not isinstance(model.model, comfy.model_base.Flux):
        raise ValueError(
            f"MODEL is a {kind}, but FLUX.1 Fill is needed; load it with Load Diffusion Model"
        )
    latents: Any = model.model.latent_format
    if vae.latent_channels != latents.latent_channels:
        raise ValueError(
            f"VAE has {vae.latent_channels} latent channels, but this MODEL works with "
            f"{latents.latent_channels}; load ae.safetensors with Load VAE"
        )
    config = _transformer_config(model)
    pooled_dim, sequence_dim = config["pooled_projection_dim"], config["joint_attention_dim"]
    clip = {"hidden_size": pooled_dim, "max_position_embeddings": 77}
    sources: dict[str, Any] = {
        "transformer": _Source("transformer", config),
        "vae": _Source("vae", _vae_config(model, vae)),
        "text_encoder": _Source("text_encoder", clip),
        "text_encoder_2": _Source("text_encoder_2", {"d_model": sequence_dim}),
    }
    check_fit(sources)
    return sources


_SAMPLER_PATCHES = {
    "sampler_cfg_function": "a CFG function",
    "sampler_pre_cfg_function": "a function before CFG",
    "sampler_post_cfg_function": "a function after CFG",
    "sampler_calc_cond_batch_function": "a function for batches of conditions",
    "model_function_wrapper": "a wrapper of the model's function",
}
"""What other nodes put on a MODEL for samplers, by its key."""


def sampler_patches(model: ModelPatcher) -> list[str]:
    """Return, in words, what is on a MODEL that only ComfyUI's own sampler heeds.

    Example: ``sampler_patches(model) == ["a CFG function"]``.
    """
    patches = [words for key, words in _SAMPLER_PATCHES.items() if model.model_options.get(key)]
    if has_schedule(model):
        patches.append("another noise schedule (such as ModelSamplingFlux)")
    wrappers: Any = getattr(model, "wrappers", {})
    keys = {
        key or "no name" for group in wrappers.values() for key, items in group.items() if items
    }
    return patches + [f"a wrapper ({key})" for key in sorted(keys)]


def _sampler(model: ModelPatcher, vae_config: dict[str, Any]) -> CoreSampler | None:
    """Return ComfyUI's own sampler if anything is on the MODEL that ours would not heed."""
    return CoreSampler(model, vae_factor(vae_config)) if sampler_patches(model) else None


def _transformer_config(model: ModelPatcher) -> dict[str, Any]:
    """Return diffusers' config of ComfyUI's transformer."""
    config: Any = model.model.model_config
    unet = config.unet_config
    return {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": unet["hidden_size"] // unet["num_heads"],
        "axes_dims_rope": list(unet["axes_dim"]),
        "guidance_embeds": unet["guidance_embed"],
        "in_channels": unet["in_channels"] * PATCH**2,
        "joint_attention_dim": unet["context_in_dim"],
        "num_attention_heads": unet["num_heads"],
        "num_layers": unet["depth"],
        "num_single_layers": unet["depth_single_blocks"],
        "out_channels": unet["out_channels"] * PATCH**2,
        "patch_size": 1,
        "pooled_projection_dim": unet["vec_in_dim"],
    }


def _tensors(config: dict[str, Any]) -> dict[str, TensorInfo]:
    module = empty_module("transformer", config)
    return {name: TensorInfo("BF16", tuple(p.shape)) for name, p in module.named_parameters()}


def _vae_config(model: ModelPatcher, vae: Any) -> dict[str, Any]:
    latents: Any = model.model.latent_format
    levels = int(math.log2(vae.spacial_compression_encode())) + 1
    return {
        "block_out_channels": [*FLUX_VAE_CHANNELS, *FLUX_VAE_CHANNELS[-1:] * levels][:levels],
        "latent_channels": vae.latent_channels,
        "scaling_factor": latents.scale_factor,
        "shift_factor": latents.shift_factor,
    }


def _compute_dtype(model: ModelPatcher) -> torch.dtype:
    native: Any = model.model
    return native.manual_cast_dtype or native.get_dtype()


def _component(name: str, module: nn.Module, handle: Any, dtype: torch.dtype) -> Component:
    """Return a component that ComfyUI has loaded and manages."""
    component = Component(name, lambda: module, 0, dtype)
    assert component.module is module, "reading it marks it as loaded"
    component.handle, component.num_bytes = handle, handle.model_size()
    return component


def _encode_texts(
    clip: Any, texts: Sequence[str], recipe: Recipe
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    states = []
    for text in texts:
        ((sequence, extra),) = encode_text(clip, text, recipe)
        states.append((sequence[0].cpu(), extra["pooled_output"][0].cpu()))
    return states


class _Foreign(nn.Module):
    """Calls ComfyUI's modules without owning them: who moves this one moves nothing of theirs."""

    def __init__(self, native: Any) -> None:
        super().__init__()
        self._native = (native,)  # in a tuple nn.Module does not see it
        self._anchor = nn.Parameter(torch.empty(0), requires_grad=False)  # has device and type


class _Transformer(_Foreign):
    """ComfyUI's FLUX behind the call of diffusers' ``FluxTransformer2DModel``."""

    def forward(
        self,
        *,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor,
        pooled_projections: torch.Tensor,
        img_ids: torch.Tensor,
        **_: Any,
    ) -> tuple[torch.Tensor]:
        """Return the velocity of packed latents, packed ``[B, S, 4C]``."""
        (patcher,) = self._native
        height, width = (PATCH * (int(n) + 1) for n in img_ids[-1, 1:])
        options = patcher.model_options.get("transformer_options", {}) | {"sigmas": timestep}
        # As ComfyUI's own apply_model asks for it: weights of the next blocks come in advance.
        is_dynamic = getattr(patcher, "is_dynamic", None)
        options["prefetch_dynamic_vbars"] = is_dynamic is not None and is_dynamic()
        velocity = patcher.model.diffusion_model(
            unpack_latents(hidden_states, height, width),
            timestep,
            encoder_hidden_states,
            pooled_projections,
            guidance,
            transformer_options=options,
        )
        return (pack_latents(velocity),)


class _Vae(_Foreign):
    """ComfyUI's VAE behind the calls of diffusers' ``AutoencoderKL``."""

    def __init__(self, native: Any, config: dict[str, Any]) -> None:
        super().__init__(native)
        self.config = SimpleNamespace(**config)
        self._is_tiled = False

    def enable_tiling(self) -> None:
        """Work in tiles."""
        self._is_tiled = True

    def disable_tiling(self) -> None:
        """Work in one go; ComfyUI falls back to tiles by itself."""
        self._is_tiled = False

    def encode(self, pixels: torch.Tensor) -> Any:
        """``[B, 3, H, W]`` in -1..1 to a posterior of which ComfyUI has the mode only."""
        (vae,) = self._native
        use = vae.encode_tiled if self._is_tiled else vae.encode
        latents = use((pixels / 2 + 0.5).permute(0, 2, 3, 1))
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        """``[B, C, h, w]`` to ``[B, 3, H, W]`` in -1..1."""
        (vae,) = self._native
        use = vae.decode_tiled if self._is_tiled else vae.decode
        return (use(latents).permute(0, 3, 1, 2) * 2 - 1,)
