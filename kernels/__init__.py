"""Fused operations of the FLUX transformer, forward and backward, as plain functions.

Between its matrix products a block runs small operations (norms, rotary embedding, gates, GELU)
that each read and write all activations; a kernel does several of them in one pass over memory.
On NVIDIA GPUs with Triton they serve edits and training; without them the same is computed in plain
PyTorch, equal up to rounding. :mod:`.reference` defines them, :mod:`.dispatch` chooses per call.
"""

from __future__ import annotations

from torch import Tensor

from .dispatch import KernelUnavailable, device_refusal, find, use_backend
from .lora import lora_linear
from .reference import QKV, Pair

__all__ = [
    "KernelUnavailable",
    "adaln_modulate",
    "cfg_euler_step",
    "concat_gelu",
    "device_refusal",
    "gated_residual",
    "gated_residual_adaln",
    "gelu_tanh",
    "joint_qkv_norm_rope",
    "lora_linear",
    "qk_norm_rope",
    "use_backend",
]


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    angles: Pair,
    eps: float = 1e-6,
) -> Pair:
    """Normalise the heads of query and key (RMSNorm) and rotate them (RoPE).

    Args:
        q: Queries ``[B, S, H, D]``, D even; any strides but in the last axis, so a slice of a
            packed projection is read in place.
        k: Keys of the same shape.
        q_weight: Weight of the norm of q ``[D]``.
        k_weight: Weight of the norm of k ``[D]``.
        angles: Cosine and sine ``[S, D / 2]``, float32: one value per pair (2i, 2i + 1).
        eps: Added to the mean square.

    Returns:
        q and k, contiguous.

    Source: diffusers, ``FluxAttnProcessor`` and ``apply_rotary_emb``.
    """
    cos, sin = angles
    tensors = {"q": q, "k": k, "q_weight": q_weight, "k_weight": k_weight, "cos": cos, "sin": sin}
    return find("qk_norm_rope", tensors)(q, k, q_weight, k_weight, cos, sin, eps)


def joint_qkv_norm_rope(
    text: QKV,
    image: QKV,
    text_weights: Pair,
    image_weights: Pair,
    angles: Pair,
    eps: float = 1e-6,
) -> QKV:
    """Normalise, join (text first) and rotate the queries and keys of two streams; join values.

    Args:
        text: Query, key and value ``[B, S_text, H, D]``; strides as in :func:`qk_norm_rope`.
        image: The same ``[B, S_image, H, D]``.
        text_weights: Weights of the norms of the text's q and k ``[D]``.
        image_weights: Weights of the norms of the image's q and k.
        angles: Cosine and sine ``[S_text + S_image, D / 2]``, float32.
        eps: Added to the mean square.

    Returns:
        Query, key and value ``[B, S_text + S_image, H, D]``, contiguous.

    Source: diffusers, ``FluxAttnProcessor``.
    """
    names = ("text_q", "text_k", "text_v", "image_q", "image_k", "image_v")
    tensors: dict[str, Tensor | None] = dict(zip(names, (*text, *image), strict=True))
    names = ("text_q_weight", "text_k_weight", "image_q_weight", "image_k_weight", "cos", "sin")
    tensors |= dict(zip(names, (*text_weights, *image_weights, *angles), strict=True))
    run = find("joint_qkv_norm_rope", tensors)
    return run(text, image, text_weights, image_weights, angles, eps)


def adaln_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ``LayerNorm(x) * (1 + scale) + shift``, the norm without weights of its own.

    Args:
        x: ``[B, S, D]``; any strides but in the last axis.
        scale: Per sample ``[B, D]``; a slice of a longer vector is read in place.
        shift: The same.
        eps: Added to the variance.

    Source: diffusers, ``AdaLayerNormZero``.
    """
    tensors = {"x": x, "scale": scale, "shift": shift}
    return find("adaln_modulate", tensors)(x, scale, shift, eps)


def gated_residual(
    residual: Tensor, gate: Tensor, update: Tensor, *, clamp: bool = False
) -> Tensor:
    """Return ``residual + gate * update``.

    Args:
        residual: ``[B, S, D]``.
        gate: Per sample ``[B, D]``.
        update: ``[B, S, D]``.
        clamp: Keep float16 within its finite range, as diffusers does at the ends of some blocks.

    Source: diffusers, ``FluxTransformerBlock``.
    """
    tensors = {"residual": residual, "gate": gate, "update": update}
    return find("gated_residual", tensors)(residual, gate, update, clamp)


def gated_residual_adaln(
    residual: Tensor,
    gate: Tensor,
    update: Tensor,
    modulation: Pair,
    eps: float = 1e-6,
    *,
    clamp: bool = False,
) -> Pair:
    """Return the gated residual and its modulated LayerNorm in one pass.

    Args:
        residual: ``[B, S, D]``.
        gate: Per sample ``[B, D]``.
        update: ``[B, S, D]``.
        modulation: Scale and shift ``[B, D]`` of the norm.
        eps: Added to the variance.
        clamp: As in :func:`gated_residual`.

    Returns:
        The new residual, and what the next layer reads.
    """
    scale, shift = modulation
    tensors = {"residual": residual, "gate": gate, "update": update, "scale": scale, "shift": shift}
    return find("gated_residual_adaln", tensors)(residual, gate, update, modulation, eps, clamp)


def gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU in its tanh form, of ``[B, S, D]``."""
    return find("gelu_tanh", {"x": x})(x)


def concat_gelu(attention: Tensor, mlp: Tensor) -> Tensor:
    """Return ``cat([attention, gelu_tanh(mlp)], -1)`` without the copies in between.

    Args:
        attention: ``[B, S, D]``.
        mlp: ``[B, S, M]``.

    Source: diffusers, ``FluxSingleTransformerBlock``.
    """
    return find("concat_gelu", {"attention": attention, "mlp": mlp})(attention, mlp)


def cfg_euler_step(
    latents: Tensor,
    velocity: Tensor,
    sigmas: tuple[float, float],
    true_cfg: float = 1.0,
    blend: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Pair:
    """Mix guided velocities, take one Euler step and, if asked, keep a part of a source.

    Args:
        latents: Packed ``[B, S, C]``.
        velocity: ``[2 B, S, C]``, the negative prompt's first; or ``[B, S, C]``, used as it is.
        sigmas: Noise level now and next, 0..1.
        true_cfg: Scale between the negative and the positive velocity.
        blend: Keep ``[B, S, K]`` in 0..1 (1: follow the source), K a divisor of C, read at channel
            modulo K; source and its noise ``[B, S, C]``. They get no gradient.

    Returns:
        Latents at the next noise level, where keep is 1 the noised source bit for bit; and the
        image the velocity points at, ``latents - sigma * velocity``.

    Raises:
        ValueError: The velocity has another number of rows, or keep does not divide the channels.
    """
    if velocity.shape[0] not in (latents.shape[0], 2 * latents.shape[0]):
        raise ValueError(
            f"velocity has {velocity.shape[0]} rows, but {latents.shape[0]} or twice as many are "
            "expected"
        )
    keep, source, noise = (t.detach() for t in blend) if blend else (None, None, None)
    if keep is not None and latents.shape[-1] % keep.shape[-1]:
        raise ValueError(f"keep has {keep.shape[-1]} values, no divisor of {latents.shape[-1]}")
    tensors = {"latents": latents, "velocity": velocity, "keep": keep, "source": source}
    run = find("cfg_euler_step", tensors | {"noise": noise})
    mixed = None if keep is None else (keep, source, noise)
    return run(latents, velocity, sigmas, true_cfg, mixed)
