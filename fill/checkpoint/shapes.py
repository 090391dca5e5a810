"""Model configs read off the shapes of a single file, which carries none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .identify import DetectedLayout
from .stored_tensors import Checkpoint

FLUX_VAE_SCALING = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
FLUX_VAE_LATENTS = 16
FLUX_VAE_CHANNELS = [128, 256, 512, 512]
CLIP_HEAD_DIM = 64
FLUX_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
"""Config of FLUX.1-Fill-dev's scheduler, for models without a folder."""


def make_config(
    component: str, checkpoint: Checkpoint, layout: DetectedLayout, base: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the config of a component in a single file.

    Args:
        component: Which component of a fill model.
        checkpoint: The file's header.
        layout: How the component is stored.
        base: Config of the same component in a model folder. What does not follow from shapes is
            taken from it if everything that does agrees; else, and without it, from FLUX.1.

    Raises:
        ValueError: A tensor that gives a size is missing or has an impossible shape.
    """
    shapes = _Shapes(checkpoint, layout.prefix)
    sizes, assumed = _READERS[component](shapes, layout.layout)
    if base is not None and all(base.get(key) == value for key, value in sizes.items()):
        return dict(base)
    if component == "vae":
        _check_flux_vae(checkpoint.name, sizes)
    return {**assumed, **sizes}


def _check_flux_vae(name: str, sizes: Mapping[str, Any]) -> None:
    """Refuse a VAE of unknown scale: only that of FLUX.1 is the same in every file."""
    latent, channels = sizes["latent_channels"], sizes["block_out_channels"]
    if latent != FLUX_VAE_LATENTS or channels != FLUX_VAE_CHANNELS:
        raise ValueError(
            f"{name} is a VAE with {latent} latent channels and levels of {channels}, but that of "
            f"FLUX.1 has {FLUX_VAE_LATENTS} and {FLUX_VAE_CHANNELS}; choose ae.safetensors"
        )


class _Shapes:
    """Shapes by name, with the refusal in one place."""

    def __init__(self, checkpoint: Checkpoint, prefix: str) -> None:
        self._checkpoint = checkpoint
        self._prefix = prefix

    def has(self, key: str) -> bool:
        """Tell whether the file has a tensor."""
        return self._prefix + key in self._checkpoint.tensors

    def size(self, key: str, axis: int) -> int:
        """Return one axis of a tensor's shape."""
        if not self.has(key):
            raise ValueError(f"{self._checkpoint.name} lacks {key}; download it again")
        shape = self._checkpoint.shape(self._prefix + key)
        if axis >= len(shape) or shape[axis] < 1:
            raise ValueError(
                f"{self._checkpoint.name} has {key} as {list(shape)}, which no model of this kind "
                "has; download it again"
            )
        return shape[axis]

    def count(self, template: str) -> int:
        """Return how many numbers from 0 on, put into the template, name tensors."""
        count = 0
        while self.has(template.format(count)):
            count += 1
        return count


def _transformer(shapes: _Shapes, layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    names = _ORIGINAL if layout == "original" else _DIFFUSERS
    width, channels = shapes.size(names["in"], 0), shapes.size(names["in"], 1)
    head = shapes.size(names["head"], 0)
    sizes = {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": head,
        "guidance_embeds": shapes.has(names["guidance"]),
        "in_channels": channels,
        "joint_attention_dim": shapes.size(names["text"], 1),
        "num_attention_heads": max(width // head, 1),
        "num_layers": shapes.count(names["double"]),
        "num_single_layers": shapes.count(names["single"]),
        "out_channels": shapes.size(names["out"], 0),
        "patch_size": 1,
        "pooled_projection_dim": shapes.size(names["pooled"], 1),
    }
    # FLUX gives an eighth of a head to the first axis and shares the rest: 16, 56, 56 of 128.
    first = head // 8
    return sizes, {"axes_dims_rope": [first, (head - first) // 2, (head - first) // 2]}


_ORIGINAL = {
    "in": "img_in.weight",
    "head": "double_blocks.0.img_attn.norm.query_norm.scale",
    "text": "txt_in.weight",
    "pooled": "vector_in.in_layer.weight",
    "out": "final_layer.linear.weight",
    "guidance": "guidance_in.in_layer.weight",
    "double": "double_blocks.{}.img_attn.qkv.weight",
    "single": "single_blocks.{}.linear1.weight",
}
_DIFFUSERS = {
    "in": "x_embedder.weight",
    "head": "transformer_blocks.0.attn.norm_q.weight",
    "text": "context_embedder.weight",
    "pooled": "time_text_embed.text_embedder.linear_1.weight",
    "out": "proj_out.weight",
    "guidance": "time_text_embed.guidance_embedder.linear_1.weight",
    "double": "transformer_blocks.{}.attn.add_q_proj.weight",
    "single": "single_transformer_blocks.{}.proj_mlp.weight",
}


def _vae(shapes: _Shapes, layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    is_original = layout == "original"
    level = "encoder.down.{}.block." if is_original else "encoder.down_blocks.{}.resnets."
    attention = "mid.attn_1.q" if is_original else "mid_block.attentions.0.to_q"
    levels = shapes.count(level + "0.conv1.weight")
    channels = [shapes.size(level.format(i) + "0.conv1.weight", 0) for i in range(levels)]
    sizes = {
        "block_out_channels": channels,
        "in_channels": shapes.size("encoder.conv_in.weight", 1),
        "latent_channels": shapes.size("decoder.conv_in.weight", 1),
        "layers_per_block": shapes.count(level.format(0) + "{}.conv1.weight"),
        "mid_block_add_attention": shapes.has(f"encoder.{attention}.weight"),
        "out_channels": shapes.size("decoder.conv_out.weight", 0),
        "use_post_quant_conv": shapes.has("post_quant_conv.weight"),
        "use_quant_conv": shapes.has("quant_conv.weight"),
    }
    assumed = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": 32,
        "sample_size": 1024,
        **FLUX_VAE_SCALING,
    }
    return sizes, assumed


def _clip(shapes: _Shapes, layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    text = "text_model." if layout == "transformers" else ""
    width = shapes.size(f"{text}embeddings.token_embedding.weight", 1)
    sizes = {
        "hidden_size": width,
        "intermediate_size": shapes.size(f"{text}encoder.layers.0.mlp.fc1.weight", 0),
        "max_position_embeddings": shapes.size(f"{text}embeddings.position_embedding.weight", 0),
        "num_hidden_layers": shapes.count(text + "encoder.layers.{}.mlp.fc1.weight"),
        "vocab_size": shapes.size(f"{text}embeddings.token_embedding.weight", 0),
    }
    assumed = {
        "hidden_act": "quick_gelu",
        "num_attention_heads": max(width // CLIP_HEAD_DIM, 1),
        "projection_dim": width,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
    return sizes, assumed


def _t5(shapes: _Shapes, layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if layout == "gguf":
        block, embedding, query = "enc.blk.{}.", "token_embd.weight", "attn_q.weight"
        gate, bias = "ffn_gate.weight", "attn_rel_b.weight"
    else:
        block, embedding = "encoder.block.{}.layer.", "shared.weight"
        query, gate = "0.SelfAttention.q.weight", "1.DenseReluDense.wi_0.weight"
        bias = "0.SelfAttention.relative_attention_bias.weight"
    first = block.format(0)
    heads = shapes.size(first + bias, 1)
    sizes = {
        "d_ff": shapes.size(first + gate, 0),
        "d_kv": max(shapes.size(first + query, 0) // heads, 1),
        "d_model": shapes.size(embedding, 1),
        "num_heads": heads,
        "num_layers": shapes.count(block + query),
        "relative_attention_num_buckets": shapes.size(first + bias, 0),
        "vocab_size": shapes.size(embedding, 0),
    }
    assumed = {
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
        "relative_attention_max_distance": 128,
    }
    return sizes, assumed


_READERS = {
    "transformer": _transformer,
    "vae": _vae,
    "text_encoder": _clip,
    "text_encoder_2": _t5,
}
