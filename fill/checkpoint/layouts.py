"""Where each tensor of a diffusers or transformers model is in a file of another layout.

A target is made of slices: rows of tensors in the file, one after the other. Rows can be cut out of
packed tensors too, because quantisation runs along the columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .gguf import require_gguf


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Rows of a tensor in a file. Example: ``TensorSlice('img_attn.qkv.weight', 0, 64, 192)``."""

    key: str
    start: int
    stop: int
    total: int


def _whole(key: str, rows: int) -> tuple[TensorSlice, ...]:
    return (TensorSlice(key, 0, rows, rows),)


Layout = Callable[[str, int], tuple[TensorSlice, ...]]
"""(name of the target, its number of rows) to its slices."""


def same(target: str, rows: int) -> tuple[TensorSlice, ...]:
    """Find the target under its own name."""
    return _whole(target, rows)


def without_prefix(prefix: str) -> Layout:
    """Find targets whose prefix in the model the file leaves out."""
    return lambda target, rows: _whole(target.removeprefix(prefix), rows)


def with_prefix(prefix: str) -> Layout:
    """Find targets whose prefix in the file the model may leave out."""
    return lambda target, rows: _whole(
        target if target.startswith(prefix) else prefix + target, rows
    )


_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_SINGLE = {
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
_OUTSIDE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder": "time_in",
    "time_text_embed.text_embedder": "vector_in",
    "time_text_embed.guidance_embedder": "guidance_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_EMBEDDER_ENDS = {"linear_1": "in_layer", "linear_2": "out_layer"}
# Modules that the original layout keeps in one tensor: which one, and their index in it.
_FUSED_DOUBLE = {
    **{f"attn.to_{name}": ("img_attn.qkv", i) for i, name in enumerate("qkv")},
    **{f"attn.add_{name}_proj": ("txt_attn.qkv", i) for i, name in enumerate("qkv")},
}
_FUSED_SINGLE = {f"attn.to_{name}": i for i, name in enumerate("qkv")}


def original_transformer(target: str, rows: int) -> tuple[TensorSlice, ...]:
    """Find a parameter of ``FluxTransformer2DModel`` in Black Forest Labs' own layout."""
    module, _, end = target.rpartition(".")
    if match := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module):
        return _in_double(f"double_blocks.{match[1]}", match[2], end, rows)
    if match := re.fullmatch(r"single_transformer_blocks\.(\d+)\.(.+)", module):
        return _in_single(f"single_blocks.{match[1]}", match[2], end, rows)
    embedder, _, linear = module.rpartition(".")
    if linear in _EMBEDDER_ENDS:
        module, linear = embedder, "." + _EMBEDDER_ENDS[linear]
    else:
        linear = ""
    key = f"{_OUTSIDE[module]}{linear}.{end}"
    if module == "norm_out.linear":
        # The original has shift before scale, diffusers scale before shift.
        return TensorSlice(key, rows // 2, rows, rows), TensorSlice(key, 0, rows // 2, rows)
    return _whole(key, rows)


def _in_double(block: str, module: str, end: str, rows: int) -> tuple[TensorSlice, ...]:
    if module in _FUSED_DOUBLE:
        fused, index = _FUSED_DOUBLE[module]
        return (TensorSlice(f"{block}.{fused}.{end}", index * rows, (index + 1) * rows, 3 * rows),)
    return _whole(f"{block}.{_DOUBLE[module]}.{_norm_end(module, end)}", rows)


def _in_single(block: str, module: str, end: str, rows: int) -> tuple[TensorSlice, ...]:
    fused = f"{block}.linear1.{end}"
    if module == "proj_mlp":
        width = rows // 4  # the MLP is four times as wide as q, k and v before it
        return (TensorSlice(fused, 3 * width, 7 * width, 7 * width),)
    if module in _FUSED_SINGLE:
        start = _FUSED_SINGLE[module] * rows
        return (TensorSlice(fused, start, start + rows, 7 * rows),)
    return _whole(f"{block}.{_SINGLE[module]}.{_norm_end(module, end)}", rows)


def _norm_end(module: str, end: str) -> str:
    return "scale" if module.startswith("attn.norm") else end


def original_vae(num_levels: int) -> Layout:
    """Find a parameter of ``AutoencoderKL`` with so many levels in the original layout."""

    def find(target: str, rows: int) -> tuple[TensorSlice, ...]:
        key = target
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.", key):
            level = num_levels - 1 - int(match[1])  # the original counts from the finest
            key = f"decoder.up.{level}." + key[match.end() :]
        for pattern, replacement in _VAE_NAMES:
            key = re.sub(pattern, replacement, key)
        return _whole(key, rows)

    return find


_VAE_NAMES = (
    (r"\.down_blocks\.", ".down."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
    (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
    (r"\.resnets\.", ".block."),
    (r"\.downsamplers\.0\.", ".downsample."),
    (r"\.upsamplers\.0\.", ".upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)


def gguf_t5(num_blocks: int) -> Layout:
    """Find a parameter of ``T5EncoderModel`` under the names that llama.cpp gives it."""
    gguf = require_gguf()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, num_blocks)

    def find(target: str, rows: int) -> tuple[TensorSlice, ...]:
        key = names.get_name(target, try_suffixes=(".weight",))
        return _whole(key or target, rows)

    return find
