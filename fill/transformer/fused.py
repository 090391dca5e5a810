"""Attaches the fused kernels to a loaded FLUX transformer, and detaches them again.

Attaching gives the transformer, its blocks and its adapted layers another class, one that differs
in ``forward`` alone. Parameters, buffers, hooks, adapters and the state dict are not touched, so
detaching restores the model exactly. Whatever a fused forward does not cover (ControlNet, IP
adapters, other attention processors) goes through the class it was made from.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ... import kernels
from .attention import attend, describe_attention

logger = logging.getLogger("onereward.fill")

Angles = tuple[Tensor, Tensor]
Modulation = Tensor | tuple[Tensor, ...]
"""The embedding of time, guidance and prompt ``[B, D]``; or, ready-made, the vectors ``[B, n D]``
that each norm of a block would compute from it."""


def apply_kernels(transformer: nn.Module, mode: str, device: torch.device) -> None:
    """Make a transformer run on the fused kernels, or not.

    Args:
        transformer: diffusers' ``FluxTransformer2DModel``.
        mode: ``auto``: where a supported GPU is found, else log once why not; ``on``; ``off``.
        device: Where it will run.

    Raises:
        KernelUnavailable: ``on``, and the kernels cannot run here.
    """
    reason = "they are off" if mode == "off" else _refusal(transformer, device)
    if mode == "auto" and device.type == "cpu":
        reason = reason or "the interpreter is for tests"
    if reason is None:
        if not is_attached(transformer):
            attach(transformer)
            _log_attached(describe_attention(device, _blocks(transformer)[0].attn.processor))
        return
    if mode == "on":
        raise kernels.KernelUnavailable(
            f"the fused kernels cannot run: {reason}; set kernels to auto or off"
        )
    detach(transformer)
    if mode == "auto":
        _log_absent(reason)


def use_kernels(mode: str) -> AbstractContextManager[None]:
    """Let operations outside of the transformer follow the same setting."""
    return kernels.use_backend("reference") if mode == "off" else nullcontext()


def attach(transformer: nn.Module) -> None:
    """Give a transformer and what is in it their fused forwards."""
    for module in transformer.modules():
        fused = _fused_class(type(module))
        if fused is not None:
            module.__class__ = fused


def detach(transformer: nn.Module) -> None:
    """Give back the classes that :func:`attach` replaced."""
    for module in transformer.modules():
        if is_fused(module):
            module.__class__ = type(module).__base__  # type: ignore[assignment]


def is_attached(transformer: nn.Module) -> bool:
    """Tell whether every module that can run on the kernels does so."""
    return all(_fused_class(type(module)) is None for module in transformer.modules())


def takes_modulation(transformer: nn.Module) -> bool:
    """Tell whether a transformer takes ready-made modulation in every block."""
    model: Any = transformer
    return (
        is_fused(transformer)
        and not _has_hooked_blocks(model)
        and all(_is_covered(block, True, None) for block in _blocks(model))
    )


def _refusal(transformer: nn.Module, device: torch.device) -> str | None:
    from diffusers import FluxTransformer2DModel

    if type(transformer) is not FluxTransformer2DModel and not is_fused(transformer):
        return f"the transformer is a {type(transformer).__name__}, not a FluxTransformer2DModel"
    return kernels.device_refusal(device.type, device.index)


def is_fused(module: nn.Module) -> bool:
    """Tell whether a module itself runs on the kernels."""
    return type(module).__dict__.get("is_onereward_fused", False)


@functools.cache
def _fused_class(cls: type) -> type | None:
    """Return a class's fused form; None if it has none or is one.

    It keeps its name, by which diffusers and PEFT know a class.
    """
    forward = _forwards().get(cls)
    if forward is None:
        return None
    members = {"forward": forward, "is_onereward_fused": True, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), members | {"__module__": cls.__module__})


@functools.cache
def _forwards() -> dict[type, Callable[..., Any]]:
    from diffusers.models.transformers import transformer_flux as flux
    from peft.tuners.lora import Linear

    return {
        flux.FluxTransformer2DModel: _transformer,
        flux.FluxTransformerBlock: _double_block,
        flux.FluxSingleTransformerBlock: _single_block,
        Linear: _adapted_linear,
    }


def _plain(module: Any) -> Any:
    """Return the forward of the class that a fused one was made from, bound to the module."""
    base: Any = type(module).__base__
    return base.forward.__get__(module)


def _transformer(  # noqa: PLR0913  (the arguments are those of diffusers)
    self: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Any = None,
    pooled_projections: Any = None,
    timestep: Any = None,
    img_ids: Any = None,
    txt_ids: Any = None,
    guidance: Any = None,
    joint_attention_kwargs: dict[str, Any] | None = None,
    *,
    return_dict: bool = True,
    modulation: dict[str, Tensor] | None = None,
    **options: Any,
) -> Any:
    """The transformer with the tokens of both streams kept in one buffer through its second half.

    ``modulation`` replaces timestep, guidance and pooled projections: module name of each norm to
    its vectors, see :mod:`.modulation`.
    """
    is_special = joint_attention_kwargs or any(
        v is not None and v is not False for v in options.values()
    )
    if is_special or img_ids.ndim != 2 or txt_ids.ndim != 2 or _has_hooked_blocks(self):
        if modulation is not None:
            raise ValueError("ready-made modulation goes with neither ControlNet nor block hooks")
        return _plain(self)(
            hidden_states, encoder_hidden_states, pooled_projections, timestep, img_ids, txt_ids,
            guidance, joint_attention_kwargs, return_dict=return_dict, **options,
        )  # fmt: skip
    # Embeddings of tokens, positions and time.
    image = self.x_embedder(hidden_states)  # [B, S, D]
    text = self.context_embedder(encoder_hidden_states)  # [B, T, D]
    angles = _angles(self.pos_embed(torch.cat([txt_ids, img_ids])))  # [T + S, head / 2] each
    embedding = None  # [B, D]
    if modulation is None:
        embedding = _embedding(self, image.dtype, timestep, guidance, pooled_projections)

    def vectors(*norms: str) -> Modulation:
        return tuple(modulation[n] for n in norms) if modulation is not None else embedding  # type: ignore[return-value]

    # Blocks of two streams, then of one.
    for i, block in enumerate(self.transformer_blocks):
        name = f"transformer_blocks.{i}"
        ready = vectors(f"{name}.norm1", f"{name}.norm1_context")
        text, image = _run_block(self, block, image, text, ready, angles)
    tokens = text.shape[1]
    joint = torch.cat([text, image], dim=1)  # [B, T + S, D]
    for i, block in enumerate(self.single_transformer_blocks):
        ready = vectors(f"single_transformer_blocks.{i}.norm")
        joint = _run_block(self, block, joint, None, ready, angles)
    # Output of the image's tokens.
    scale, shift = _vectors(self.norm_out, vectors("norm_out"), 0, 2)
    image = kernels.adaln_modulate(joint[:, tokens:], scale, shift, self.norm_out.norm.eps)
    output = self.proj_out(image)
    if not return_dict:
        return (output,)
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    return Transformer2DModelOutput(sample=output)


def _has_hooked_blocks(transformer: Any) -> bool:
    """Tell whether offload or caching hooks have replaced the forward of a block."""
    return any("forward" in vars(block) for block in _blocks(transformer))


def _blocks(transformer: Any) -> tuple[Any, ...]:
    return (*transformer.transformer_blocks, *transformer.single_transformer_blocks)


def _embedding(
    transformer: Any,
    dtype: torch.dtype,
    timestep: Tensor,
    guidance: Tensor | None,
    pooled_prompt: Tensor,
) -> Tensor:
    """Return the embedding ``[B, D]`` that the norms are modulated by, as diffusers makes it."""
    timestep = timestep.to(dtype) * 1000
    if guidance is None:
        return transformer.time_text_embed(timestep, pooled_prompt)
    return transformer.time_text_embed(timestep, guidance.to(dtype) * 1000, pooled_prompt)


def _run_block(transformer: Any, block: Any, *arguments: Any) -> Any:
    if torch.is_grad_enabled() and transformer.gradient_checkpointing:
        return transformer._gradient_checkpointing_func(block, *arguments)
    return block(*arguments)


def _angles(full: Any) -> Angles:
    """Return one cosine and sine per pair of channels; diffusers' tables hold each twice."""
    return full[0][:, ::2].contiguous(), full[1][:, ::2].contiguous()


def _vectors(norm: Any, modulation: Modulation, index: int, count: int) -> tuple[Tensor, ...]:
    """Return shift, scale, gate, ... ``[B, D]`` of a norm: views of one product."""
    if isinstance(modulation, tuple):
        return modulation[index].chunk(count, dim=1)
    return norm.linear(norm.silu(modulation)).chunk(count, dim=1)


def _is_covered(block: Any, angles: Any, options: Any) -> bool:
    """Tell whether a block is called in the one way that is fused."""
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    attn = block.attn
    return (
        not options
        and angles is not None
        and type(attn.processor) is FluxAttnProcessor
        and getattr(attn.processor, "_parallel_config", None) is None
        and not attn.fused_projections
    )


def _fit(angles: Angles, attn: Any) -> Angles:
    return angles if angles[0].shape[1] == attn.head_dim // 2 else _angles(angles)


def _double_block(
    self: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Modulation,
    image_rotary_emb: Any = None,
    joint_attention_kwargs: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Text and image, each with its own weights, meeting in the attention."""
    if not _is_covered(self, image_rotary_emb, joint_attention_kwargs):
        return _plain(self)(
            hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
        )
    image, text = hidden_states, encoder_hidden_states
    shift, scale, gate, shift_2, scale_2, gate_2 = _vectors(self.norm1, temb, 0, 6)
    c_shift, c_scale, c_gate, c_shift_2, c_scale_2, c_gate_2 = _vectors(
        self.norm1_context, temb, 1, 6
    )
    x = kernels.adaln_modulate(image, scale, shift, self.norm1.norm.eps)  # [B, S, D]
    c = kernels.adaln_modulate(text, c_scale, c_shift, self.norm1_context.norm.eps)
    x, c = _joint_attention(self.attn, x, c, _fit(image_rotary_emb, self.attn))
    image, x = kernels.gated_residual_adaln(image, gate, x, (scale_2, shift_2), self.norm2.eps)
    text, c = kernels.gated_residual_adaln(
        text, c_gate, c, (c_scale_2, c_shift_2), self.norm2_context.eps
    )
    image = kernels.gated_residual(image, gate_2, _feed_forward(self.ff, x))
    c = _feed_forward(self.ff_context, c)
    return kernels.gated_residual(text, c_gate_2, c, clamp=True), image


def _single_block(
    self: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None,
    temb: Modulation,
    image_rotary_emb: Any = None,
    joint_attention_kwargs: dict[str, Any] | None = None,
) -> Any:
    """Both streams through the same weights; without a separate text they come joined, and stay."""
    text = encoder_hidden_states
    if not _is_covered(self, image_rotary_emb, joint_attention_kwargs):
        if text is None:
            raise ValueError("this attention processor needs the text apart; detach the kernels")
        return _plain(self)(hidden_states, text, temb, image_rotary_emb, joint_attention_kwargs)
    joint = hidden_states if text is None else torch.cat([text, hidden_states], dim=1)
    shift, scale, gate = _vectors(self.norm, temb, 0, 3)
    x = kernels.adaln_modulate(joint, scale, shift, self.norm.norm.eps)
    attn = self.attn
    # [B, T + S, H, D / H] each
    q, k, v = (_heads(attn, layer(x)) for layer in (attn.to_q, attn.to_k, attn.to_v))
    angles = _fit(image_rotary_emb, attn)
    q, k = kernels.qk_norm_rope(
        q, k, attn.norm_q.weight, attn.norm_k.weight, angles, attn.norm_q.eps
    )
    attended = attend(q, k, v, attn.processor)  # [B, T + S, D]
    update = self.proj_out(kernels.concat_gelu(attended, self.proj_mlp(x)))
    joint = kernels.gated_residual(joint, gate, update, clamp=True)
    if text is None:
        return joint
    return joint[:, : text.shape[1]], joint[:, text.shape[1] :]


def _joint_attention(attn: Any, x: Tensor, c: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
    """Return the attention's update of image and text."""
    image = tuple(_heads(attn, layer(x)) for layer in (attn.to_q, attn.to_k, attn.to_v))
    layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    text = tuple(_heads(attn, layer(c)) for layer in layers)
    # [B, T + S, H, D / H] each
    q, k, v = kernels.joint_qkv_norm_rope(
        text,  # type: ignore[arg-type]
        image,  # type: ignore[arg-type]
        (attn.norm_added_q.weight, attn.norm_added_k.weight),
        (attn.norm_q.weight, attn.norm_k.weight),
        angles,
        attn.norm_q.eps,
    )
    text_out, image_out = attend(q, k, v, attn.processor).split([c.shape[1], x.shape[1]], dim=1)
    image_out = attn.to_out[1](attn.to_out[0](image_out.contiguous()))
    return image_out, attn.to_add_out(text_out.contiguous())


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, attn.head_dim))


def _feed_forward(layers: Any, x: Tensor) -> Tensor:
    activation, dropout, out = layers.net
    return out(dropout(kernels.gelu_tanh(activation.proj(x))))


def _adapted_linear(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """PEFT's linear layer with plain LoRAs on it."""
    names = [] if args or kwargs else _plain_adapters(self)
    if not names:
        return _plain(self)(x, *args, **kwargs)
    base, scaling = self.base_layer, self.scaling[names[0]]
    downs = [self.lora_A[name].weight for name in names]  # [r, I] each
    ups = [self.lora_B[name].weight for name in names]  # [O, r] each
    if len(names) == 1:
        return kernels.lora_linear(x, base.weight, base.bias, downs[0], ups[0], scaling)
    ups = [up * self.scaling[name] for up, name in zip(ups, names, strict=True)]
    return kernels.lora_linear(x, base.weight, base.bias, torch.cat(downs), torch.cat(ups, 1), 1.0)


def _plain_adapters(layer: Any) -> list[str]:
    """Return the active adapters of a layer if the fused product covers them all, else none."""
    if layer.disable_adapters or layer.merged or type(layer.base_layer) is not nn.Linear:
        return []
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    is_plain = all(
        name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], nn.Identity)
        and layer.lora_B[name].bias is None
        for name in active
    )
    return active if is_plain else []


@functools.cache
def _log_attached(attention: str) -> None:
    logger.info("the transformer runs on fused kernels; attention: %s", attention)


@functools.cache
def _log_absent(reason: str) -> None:
    logger.info("the transformer runs without fused kernels: %s", reason)
