"""Our loaded model as ComfyUI's own MODEL, CLIP and VAE."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget

from ...fill.checkpoint.adapters import apply_adapters
from ...fill.checkpoint.layouts import original_transformer
from ...fill.memory.plan import vae_bytes
from ...fill.models import FillModels
from ...fill.sampling.latents import vae_factor
from ...fill.sampling.text import encode_prompts
from ..comfy_host import ComfyHost
from .native_text import T5_KEY

PATCH = 2
"""FLUX packs 2 x 2 latents into a token; ComfyUI counts channels before that."""


def native_model(models: FillModels) -> ModelPatcher:
    """Build ComfyUI's FLUX Fill from our transformer, with the model's adapters as its LoRAs.

    Our own copy of the weights leaves the memory; a later edit reads it again.
    """
    apply_adapters(models.transformer.module, models.adapters)
    loras = _loras(models)
    apply_adapters(models.transformer.module, ())
    state = _original_state(models)
    config = _Config(_unet_config(models, state))
    config.latent_format = _latent_format(models)
    device = mm.get_torch_device()
    cast = mm.unet_manual_cast(models.dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(models.dtype, cast)
    model: Any = _FillModel(config, vae_factor(models.vae_config))
    model = model.to(mm.unet_offload_device())
    model.load_model_weights(state, "")
    models.transformer.forget()
    patcher = ModelPatcher(model, load_device=device, offload_device=mm.unet_offload_device())
    for lora in loras:
        patched, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
        assert patched is not None, "a model was passed"
        patcher = patched
    return patcher


def native_clip(models: FillModels, host: ComfyHost) -> Any:
    """Wrap our text encoders as a CLIP; it has no weights of its own."""
    target = ClipTarget(_Tokenizer, lambda **_: _TextEncoders(models, host))
    return comfy.sd.CLIP(target)


def native_vae(models: FillModels, host: ComfyHost) -> Any:
    """Wrap our VAE as a VAE; it has no weights of its own."""
    # The smallest one ComfyUI makes: it brings whatever attributes this version has.
    vae: Any = comfy.sd.VAE(sd=comfy.sd.AutoencoderKL(**_SMALLEST).state_dict(), config=_WRAPPED)
    vae.first_stage_model = _Autoencoder(models, host)
    vae.patcher = ModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=mm.vae_offload_device()
    )
    vae.downscale_ratio = vae.upscale_ratio = vae_factor(models.vae_config)
    vae.latent_channels = models.vae_config["latent_channels"]
    vae.vae_dtype = torch.float32  # rounding is left to our own VAE
    return vae


class _Config(comfy.supported_models.FluxInpaint):
    """FLUX Fill of any size."""

    supported_inference_dtypes = (torch.bfloat16, torch.float16, torch.float32)


class _FillModel(comfy.model_base.Flux):
    """FLUX whose mask channels follow the VAE's factor; ComfyUI's own counts on 8."""

    def __init__(self, config: Any, factor: int) -> None:
        super().__init__(config)
        self._factor = factor

    def concat_cond(self, **kwargs: Any) -> torch.Tensor | None:
        """Return masked-image latents and unshuffled mask, as FLUX Fill was trained."""
        image, mask = kwargs.get("concat_latent_image"), kwargs.get("concat_mask")
        if self._factor == 8 or image is None or mask is None:
            return super().concat_cond(**kwargs)
        noise, device = kwargs["noise"], kwargs["device"]
        mask = torch.nn.functional.pixel_unshuffle(mask.to(device), self._factor)
        latents = self.process_latent_in(image.to(device))
        packed = torch.cat([latents, mask.to(latents)], dim=1)
        return packed.expand(noise.shape[0], -1, -1, -1)


def _unet_config(models: FillModels, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return ComfyUI's own settings of FLUX in this version, with the sizes of our transformer.

    Its detection takes the sizes of the published model for granted where no weight shows them.
    """
    config = models.transformer_config
    return {
        **(comfy.model_detection.detect_unet_config(state, "") or {}),
        "in_channels": config["in_channels"] // PATCH**2,
        "out_channels": models.transformer_tensors["proj_out.weight"].shape[0] // PATCH**2,
        "hidden_size": config["num_attention_heads"] * config["attention_head_dim"],
        "num_heads": config["num_attention_heads"],
        "axes_dim": list(config.get("axes_dims_rope", (16, 56, 56))),
        "context_in_dim": config["joint_attention_dim"],
        "vec_in_dim": config["pooled_projection_dim"],
        "depth": config["num_layers"],
        "depth_single_blocks": config["num_single_layers"],
        "guidance_embed": models.has_guidance,
    }


def _latent_format(models: FillModels) -> Any:
    if models.vae_config["latent_channels"] == comfy.latent_formats.Flux.latent_channels:
        return comfy.latent_formats.Flux()
    latents: Any = comfy.latent_formats.Flux()
    latents.latent_channels = models.vae_config["latent_channels"]
    latents.scale_factor = models.vae_config["scaling_factor"]
    latents.shift_factor = models.vae_config.get("shift_factor") or 0.0
    # The table of colours belongs to another number of channels.
    latents.latent_rgb_factors = latents.latent_rgb_factors_bias = latents.taesd_decoder_name = None
    return latents


def _original_state(models: FillModels) -> dict[str, torch.Tensor]:
    """Return the transformer's weights in the original layout, in the type it computes in."""
    module = models.transformer.module
    state: dict[str, torch.Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for name in models.transformer_tensors:
            owner, _, end = name.rpartition(".")
            values = getattr(module.get_submodule(owner), end).to("cpu", models.dtype)
            first = 0
            for target in original_transformer(name, values.shape[0]):
                end_row = first + target.stop - target.start
                shape = (target.total, *values.shape[1:])
                whole = state.setdefault(target.key, torch.empty(shape, dtype=models.dtype))
                whole[target.start : target.stop] = values[first:end_row]
                first = end_row
    return state


def _loras(models: FillModels) -> list[dict[str, torch.Tensor]]:
    """Return the active adapters as LoRA files have them, strength and alpha multiplied in."""
    loras: dict[str, dict[str, torch.Tensor]] = {}
    for name, layer in models.transformer.module.named_modules():
        for adapter, scaling in getattr(layer, "scaling", {}).items():
            module: Any = layer
            tensors = loras.setdefault(adapter, {})
            down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            tensors[f"transformer.{name}.lora_A.weight"] = down.detach().clone()
            tensors[f"transformer.{name}.lora_B.weight"] = up.detach() * scaling
    return list(loras.values())


class _Tokenizer:
    """Passes texts through: our encoders have tokenizers of their own."""

    def __init__(self, **_: Any) -> None:
        pass

    def tokenize_with_weights(self, text: str, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the text where ComfyUI has tokens."""
        return {T5_KEY: [[(text, 1.0)]]}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing to save."""
        return {}


class _Borrowed(torch.nn.Module):
    """A module without weights that computes with components of ours, wherever they are."""

    def __init__(self, models: FillModels, host: ComfyHost) -> None:
        super().__init__()
        self.models = models
        self.host = host


class _TextEncoders(_Borrowed):
    """What a CLIP calls to encode."""

    dtypes = (torch.float32,)
    disable_offload = True
    """No dynamic memory in newer ComfyUI: it would ask for a buffer of the size of no weights."""

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Ignore options: there is one way to encode for FLUX."""

    def reset_clip_options(self) -> None:
        """Ignore options."""

    def encode_token_weights(self, tokens: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return T5's states ``[1, L, D]`` and CLIP's pooled state ``[1, P]``."""
        (prompt,) = encode_prompts(self.models, [tokens[T5_KEY][0][0][0]], self.host)
        return prompt.sequence[None].float(), prompt.pooled_embeds[None].float()


class _Autoencoder(_Borrowed):
    """What a VAE calls to encode and decode; latents are neither scaled nor shifted."""

    def encode(self, pixels: torch.Tensor, **_: Any) -> torch.Tensor:
        """``[B, 3, H, W]`` in -1..1 to ``[B, C, H/f, W/f]``."""
        return self._call(pixels, lambda vae, x: vae.encode(x).latent_dist.mode())

    def decode(self, latents: torch.Tensor, **_: Any) -> torch.Tensor:
        """``[B, C, h, w]`` to ``[B, 3, H, W]`` in -1..1."""
        return self._call(latents, lambda vae, x: vae.decode(x, return_dict=False)[0])

    def _call(self, x: torch.Tensor, use: Any) -> torch.Tensor:
        vae, host = self.models.vae, self.host
        factor = vae_factor(self.models.vae_config) if x.shape[1] != 3 else 1
        room = vae_bytes(self.models, x.shape[0] * x[0, 0].numel() * factor**2)
        with host.resident(vae, activation_bytes=room), torch.no_grad():
            return use(vae.module, x.to(host.device, vae.dtype)).to(x.device, torch.float32)


_SMALLEST: dict[str, Any] = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
_WRAPPED = {"params": _SMALLEST}
