"""What a file is, by the names in its header; a refusal says what it is and what is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .stored_tensors import Checkpoint

SLOTS = {
    "transformer": "a FLUX.1 Fill transformer",
    "vae": "the VAE of FLUX.1 (ae.safetensors)",
    "text_encoder": "CLIP-L (clip_l.safetensors)",
    "text_encoder_2": "the T5 encoder (t5xxl)",
}
"""Name of each component of a fill model in messages."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of weights file."""

    component: str | None
    """The component it can be; None: it is recognised only to be refused."""
    layout: str
    """How its tensors are named; or, if refused, what to call it."""
    signature_keys: tuple[str, ...]
    """Tensors that such a file has, after the prefix."""
    advice: str = ""


_ADAPTER = "load it with OneReward Load Adapter"
# The first fit wins: a kind that contains another's signature_keys comes first.
_KINDS = (
    _Kind(None, "a FLUX.2 transformer", ("double_stream_modulation_img.lin.weight",)),
    _Kind(None, "a Chroma transformer", ("distilled_guidance_layer.norms.0.scale",)),
    _Kind(None, "a ControlNet", ("controlnet_x_embedder.weight",)),
    _Kind(None, "a ControlNet", ("input_hint_block.0.weight",)),
    _Kind("transformer", "original", ("double_blocks.0.img_attn.qkv.weight", "img_in.weight")),
    _Kind(
        "transformer",
        "diffusers",
        (
            "transformer_blocks.0.attn.add_q_proj.weight",
            "single_transformer_blocks.0.proj_mlp.weight",
        ),
    ),
    _Kind(None, "a Stable Diffusion 3 transformer", ("joint_blocks.0.x_block.attn.qkv.weight",)),
    _Kind(None, "a transformer of another family", ("transformer_blocks.0.attn.to_q.weight",)),
    _Kind(None, "an SDXL or Stable Diffusion model", ("input_blocks.0.0.weight",)),
    _Kind(None, "an SDXL or Stable Diffusion model", ("down_blocks.0.resnets.0.conv1.weight",)),
    _Kind("vae", "original", ("decoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight")),
    _Kind("vae", "diffusers", ("encoder.down_blocks.0.resnets.0.conv1.weight",)),
    _Kind(None, "a VAE of another family", ("decoder.conv_in.weight",)),
    _Kind(None, "a VAE of another family", ("decoder.conv1.weight",)),
    _Kind(
        None,
        "a UMT5 encoder, as Wan has",  # every block of which has a bias that T5 has once
        ("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",),
    ),
    _Kind(None, "a UMT5 encoder, as Wan has", ("enc.blk.1.attn_rel_b.weight",)),
    _Kind("text_encoder_2", "transformers", ("encoder.block.0.layer.0.SelfAttention.q.weight",)),
    _Kind("text_encoder_2", "gguf", ("enc.blk.0.attn_q.weight",)),
    _Kind("text_encoder", "transformers", ("text_model.encoder.layers.0.mlp.fc1.weight",)),
    _Kind(
        "text_encoder",
        "short",
        ("encoder.layers.0.mlp.fc1.weight", "embeddings.token_embedding.weight"),
    ),
    _Kind(None, "an OpenCLIP text encoder", ("transformer.resblocks.0.attn.in_proj_weight",)),
    _Kind(None, "a language model", ("model.layers.0.self_attn.q_proj.weight",)),
    _Kind(None, "a language model", ("blk.0.attn_q.weight",)),
)
_PACKINGS = {
    ".quant_state.": "packed by bitsandbytes (NF4 or FP4)",
    ".weight_scale_2": "packed as NVFP4",
    ".qweight": "packed for Nunchaku, GPTQ or AWQ",
    ".pre_quant_scale": "packed with scales of its inputs (SmoothQuant or AWQ)",
}
"""Ways to pack weights that are not read here, by what their tensors' names contain."""
READABLE = "bf16, fp16, fp8 (e4m3fn, e5m2) or GGUF"
# Files of whole models hold every component under a prefix of its own.
_PREFIXES = {
    "transformer": ("", "model.diffusion_model.", "transformer."),
    "vae": ("", "vae.", "first_stage_model."),
    "text_encoder": ("", "text_encoders.clip_l.transformer."),
    "text_encoder_2": ("", "text_encoders.t5xxl.transformer."),
}


@dataclass(frozen=True, slots=True)
class DetectedLayout:
    """How a file stores a component. Example: ``DetectedLayout('original', 'vae.')``."""

    layout: str
    prefix: str


def identify(checkpoint: Checkpoint, component: str) -> DetectedLayout:
    """Return how a file stores a component.

    Args:
        checkpoint: The file's header.
        component: ``transformer``, ``vae``, ``text_encoder`` or ``text_encoder_2``.

    Raises:
        ValueError: It is something else; the message says what, and what is needed.
    """
    for prefix in _PREFIXES[component]:
        match = _first(checkpoint, prefix, lambda kind: kind.component == component)
        if match is not None:
            _check_packing(checkpoint, prefix)
            return DetectedLayout(match.layout, prefix)
    _check_packing(checkpoint)
    what, advice = describe(checkpoint)
    raise ValueError(
        f"{checkpoint.name} is {what}, but {SLOTS[component]} is needed as {component}; "
        f"{advice or 'choose another file'}"
    )


def _check_packing(checkpoint: Checkpoint, prefix: str = "") -> None:
    packing = packing_of(key for key in checkpoint.tensors if key.startswith(prefix))
    if packing:
        raise ValueError(
            f"{checkpoint.name} is {packing}, which cannot be read here; get it in {READABLE}"
        )


def packing_of(keys: Iterable[str]) -> str:
    """Return how a file's weights are packed, in words, if that cannot be read; else nothing."""
    return next((w for key in keys for mark, w in _PACKINGS.items() if mark in key), "")


def describe(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return what a file is, in words, and what to do with it (empty: nothing special)."""
    if any("lora" in key.lower() for key in checkpoint.tensors):
        return "a LoRA", _ADAPTER
    prefixes = dict.fromkeys(prefix for group in _PREFIXES.values() for prefix in group)
    for prefix in prefixes:
        match = _first(checkpoint, prefix)
        if match is not None:
            return (SLOTS[match.component] if match.component else match.layout), match.advice
    first = next(iter(checkpoint.tensors))
    return f"an unknown kind of model (its first tensor is {first!r})", ""


def _first(
    checkpoint: Checkpoint, prefix: str, fits: Callable[[_Kind], bool] = lambda _: True
) -> _Kind | None:
    for kind in _KINDS:
        if all(prefix + key in checkpoint.tensors for key in kind.signature_keys):
            return kind if fits(kind) else None
    return None
