"""The untrained transformer and text encoders, and how images become the model's tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...fill.sampling.latents import (
    encode_pixels,
    pack_latents,
    pack_mask,
    position_ids,
    vae_factor,
)
from ..world.canvas import SIZE
from .config import FillTrainConfig
from .tokenizers import MAX_TOKENS, build_clip_tokenizer, build_t5_tokenizer, tokenize

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

GUIDANCE = 3.5
"""The one value that the guidance embedding ever saw."""

_HEAD = 32
_ROPE_AXES = (4, 14, 14)
_CLIP_WIDTH = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FillComponents:
    """The components of a fill pipeline.

    Example: ``load_folder(Path("assets/fill")).to(torch.device("cpu"))``.
    """

    transformer: "FluxTransformer2DModel"
    t5: "T5EncoderModel"
    clip: "CLIPTextModel"
    vae: Any
    t5_tokenizer: "T5Tokenizer"
    clip_tokenizer: "CLIPTokenizer"

    def to(self, device: torch.device) -> "FillComponents":
        """Move every module; returns self."""
        for module in (*self.trained_modules().values(), self.vae):
            module.to(device)
        return self

    def trained_modules(self) -> dict[str, nn.Module]:
        """Return the modules that are trained together, by name."""
        return {"transformer": self.transformer, "t5": self.t5, "clip": self.clip}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return every trained parameter as `<module>.<name>`."""
        return {
            f"{prefix}.{name}": parameter
            for prefix, module in self.trained_modules().items()
            for name, parameter in module.named_parameters()
        }


def build_components(config: FillTrainConfig, vae: Any) -> FillComponents:
    """Build untrained components around an autoencoder; weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)
        clip_tokenizer, t5_tokenizer = build_clip_tokenizer(), build_t5_tokenizer()
        return FillComponents(
            transformer=_build_transformer(config, vae),
            t5=_build_t5(config, len(t5_tokenizer)),
            clip=_build_clip(clip_tokenizer),
            vae=vae.eval().requires_grad_(False),
            t5_tokenizer=t5_tokenizer,
            clip_tokenizer=clip_tokenizer,
        )


def load_folder(folder: Path) -> FillComponents:
    """Return the components of an exported folder, in float32."""
    from diffusers import FluxFillPipeline

    pipeline = FluxFillPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    return FillComponents(
        transformer=pipeline.transformer,
        t5=pipeline.text_encoder_2,
        clip=pipeline.text_encoder,
        vae=pipeline.vae,
        t5_tokenizer=pipeline.tokenizer_2,
        clip_tokenizer=pipeline.tokenizer,
    )


def load_with_adapter(model: Path, adapter: Path) -> FillComponents:
    """Return the model with a LoRA on its transformer."""
    components = load_folder(model)
    components.transformer.load_lora_adapter(str(adapter), prefix="transformer")
    return components


def _build_transformer(config: FillTrainConfig, vae: Any) -> "FluxTransformer2DModel":
    from diffusers import FluxTransformer2DModel

    channels, factor = vae.config["latent_channels"], vae_factor(vae.config)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=8 * channels + 4 * factor**2,
        out_channels=4 * channels,
        num_layers=config.double_blocks,
        num_single_layers=config.single_blocks,
        attention_head_dim=_HEAD,
        num_attention_heads=config.width // _HEAD,
        joint_attention_dim=config.width,
        pooled_projection_dim=_CLIP_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=_ROPE_AXES,
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and _starts_at_zero(name):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def _starts_at_zero(name: str) -> bool:
    """Modulations and the output start at zero, so that every block starts as the identity."""
    return is_modulation(name) or name in ("norm_out.linear", "proj_out")


def is_modulation(name: str) -> bool:
    """Whether a layer turns the time embedding into shifts, scales and gates."""
    return name.endswith(("norm1.linear", "norm1_context.linear", ".norm.linear"))


ORDER_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
"""The T5's attention bias by distance, `[32, heads]`; all its layers share it."""
_ORDER_BIAS_INIT = 5.0
"""Its initial value for one token before a head's own."""


def _build_t5(config: FillTrainConfig, vocabulary: int) -> "T5EncoderModel":
    from transformers import T5Config, T5EncoderModel

    t5 = T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=config.width,
            d_kv=_HEAD,
            d_ff=2 * config.width,
            num_layers=2,
            num_heads=config.width // _HEAD,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    # Each head starts out attending to one token before its own. The T5 knows order by these biases
    # alone, and a rate that suits the other weights takes tens of thousands of steps to grow them.
    bias: Any = t5.get_parameter(ORDER_BIAS)
    with torch.no_grad():
        for head in range(bias.shape[1]):
            bias[1 + head, head] = _ORDER_BIAS_INIT
    return t5


def _build_clip(tokenizer: Any) -> "CLIPTextModel":
    from transformers import CLIPTextConfig, CLIPTextModel

    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_CLIP_WIDTH,
            intermediate_size=2 * _CLIP_WIDTH,
            projection_dim=_CLIP_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # CLIP's own deviation of 0.02 makes all prompts alike at first; the words must stand out.
    words: Any = clip.get_input_embeddings()
    nn.init.normal_(words.weight, std=0.5)
    return clip


def encode_packed(vae: Any, pixels: Tensor) -> Tensor:
    """Encode pixels `[B, 3, H, W]` in -1..1 into packed latents `[B, N, 4C]`."""
    with torch.no_grad():
        return pack_latents(encode_pixels(vae, pixels))


def fill_condition(vae: Any, source: Tensor, mask: Tensor) -> Tensor:
    """Return the packed condition of a source `[B, 3, H, W]` in -1..1 and a mask `[B, H, W]`."""
    masked = encode_packed(vae, source * (1 - mask[:, None]))
    return torch.cat([masked, pack_mask(mask, vae_factor(vae.config))], 2)


def prompt_ids(components: FillComponents, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Return T5 and CLIP ids, int64 `[B, MAX_TOKENS]` each."""
    return (
        torch.tensor(tokenize(components.t5_tokenizer, prompts)),
        torch.tensor(tokenize(components.clip_tokenizer, prompts)),
    )


def predict_velocity(
    components: FillComponents,
    tokens: Tensor,
    sigma: Tensor,
    condition: Tensor,
    text: tuple[Tensor, Tensor],
) -> Tensor:
    """Run the transformer once.

    Args:
        components: The model.
        tokens: Packed noisy latents `[B, N, 4C]`.
        sigma: Noise level `[B]`, 1 = noise.
        condition: Packed masked source and mask, `[B, N, 4C + 4f²]`.
        text: T5 states `[B, T, D]` and CLIP's pooled output `[B, P]`.

    Returns:
        Velocity (noise minus image), packed like `tokens`.
    """
    states, clip_pooled = text
    side = SIZE // vae_factor(components.vae.config)
    return components.transformer(
        hidden_states=torch.cat([tokens, condition], 2),  # [B, N, 8C + 4f²]
        timestep=sigma,
        guidance=torch.full_like(sigma, GUIDANCE),
        encoder_hidden_states=states,
        pooled_projections=clip_pooled,
        txt_ids=torch.zeros(states.shape[1], 3, device=states.device),
        img_ids=position_ids(side, side, tokens.device),
        return_dict=False,
    )[0]


def encode_prompts(components: FillComponents, ids: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return T5 states `[B, T, D]` and CLIP's pooled output `[B, P]`."""
    return components.t5(ids[0])[0], components.clip(ids[1]).pooler_output
