"""Calls, images, gradient steps and memory of a whole transformer."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timing import first_call_s, host_ms, interleave, peak_bytes, spread
from torch import Tensor
from variants import TRUE_CFG, Variants, build

from onereward.fill.local_host import LocalHost
from onereward.fill.memory.components import Component
from onereward.fill.sampling.guidance import Conditioning, make_velocity
from onereward.fill.sampling.sampler import sample
from onereward.fill.sampling.schedule import make_sigmas
from onereward.fill.transformer import fused
from onereward.fill.transformer.modulation import (
    HostLinear,
    make_table,
    modulated_norms,
    place_modulation,
)
from onereward.fill.transformer.recompute import checkpoint_blocks

SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
CARD_BYTES = 24 << 30
"""The card that a bf16 policy has to fit."""


def measure_accuracy(variants: Variants) -> Iterator[dict[str, Any]]:
    """Yield the errors of two blocks of each kind against float64, output and gradient."""
    config = dict(variants.scale.config) | {"num_layers": 2, "num_single_layers": 2}
    side = min(variants.scale.sides)
    short = Variants(replace(variants.scale, config=config), variants.device, variants.dtype)
    inputs = short.inputs(side, 1)
    exact = build(config, short.device, short.dtype).double()
    wide = {k: v if "ids" in k or k == "guidance" else v.double() for k, v in inputs.items()}
    truth = _output_and_gradient(exact, wide)
    for name, model in short.models.items():
        with short.attention():
            results = _output_and_gradient(model, inputs)
        errors = [
            float((a.double() - b).norm() / b.norm()) for a, b in zip(results, truth, strict=True)
        ]
        yield {"variant": name, "side": side, "output": errors[0], "gradient": errors[1]}


def _output_and_gradient(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    leaf = inputs["hidden_states"].detach().requires_grad_()
    with torch.enable_grad():
        (out,) = model(**(inputs | {"hidden_states": leaf}), return_dict=False)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(out.dtype)
    (gradient,) = torch.autograd.grad(out, leaf, weights)
    return out.detach(), gradient


def measure_calls(variants: Variants) -> Iterator[dict[str, Any]]:
    """Yield a row per size and batch: one model call without gradient."""
    for side in variants.scale.sides:
        for batch in (1, 2):
            inputs = variants.inputs(side, batch)
            calls = {name: _call(model, inputs) for name, model in variants.models.items()}
            fused_model = variants.models["ours"]
            ready = _ready_vectors(fused_model, batch, variants)
            calls["ours, modulation ready"] = _call(fused_model, inputs | {"modulation": ready})
            device = variants.device
            with torch.no_grad(), variants.attention():
                first = {name: first_call_s(call, device) for name, call in calls.items()}
                row = {
                    "side": side, "batch": batch,
                    "attention": variants.attention_names(side, batch),
                    "first_call_s": first,
                    "difference": _differences({name: call() for name, call in calls.items()}),
                    "us": interleave(calls, device, variants.scale.rounds),
                    "host_ms": {name: host_ms(call, device) for name, call in calls.items()},
                    "peak": {name: peak_bytes(call, device) for name, call in calls.items()},
                }  # fmt: skip
            yield row


def _call(model: Any, inputs: Mapping[str, Any]) -> Callable[[], Tensor]:
    return lambda: model(**inputs, return_dict=False)[0]


def _ready_vectors(model: Any, batch: int, variants: Variants) -> dict[str, Tensor]:
    embedding = variants.draw(batch, model.inner_dim, seed=7)
    with torch.no_grad():
        return {n: norm.linear(norm.silu(embedding)) for n, norm in modulated_norms(model)}


def _differences(results: dict[str, Tensor]) -> dict[str, float]:
    """Return how far each is from eager, relative; with other modulation nothing is comparable."""
    base = results["eager"].float()
    return {
        name: float((results[name].float() - base).norm() / base.norm())
        for name in ("compiled", "ours")
    }


def measure_images(variants: Variants) -> Iterator[dict[str, Any]]:
    """Yield a row per size: all steps of one image with guidance, latents to latents."""
    for side in variants.scale.sides:
        cond = variants.conditioning(side)
        noise = variants.draw(1, (side // 16) ** 2, variants.scale.config["out_channels"], seed=4)
        sigmas = make_sigmas(SCHEDULER, variants.scale.steps, noise.shape[1])
        calls: dict[str, Callable[[], Tensor]] = {
            name: _upstream(variants.models[name], cond, noise, sigmas)
            for name in ("eager", "compiled")
        }
        calls["ours"] = _our_image(variants.models["ours"], cond, noise, sigmas)
        latents: dict[str, Tensor] = {}
        times: dict[str, list[float]] = {name: [] for name in calls}

        def keep(name: str) -> None:
            latents[name] = calls[name]()  # noqa: B023  (called at once)

        with torch.no_grad(), variants.attention():
            # The warm-up: most of this time is nobody's.
            peak = {name: peak_bytes(partial(keep, name), variants.device) for name in calls}
            for name in (*calls, *reversed(calls)):
                times[name].append(first_call_s(calls[name], variants.device) * 1e6)
        yield {
            "side": side, "steps": variants.scale.steps, "difference": _differences(latents),
            "us": {name: spread(values) for name, values in times.items()}, "peak": peak,
        }  # fmt: skip


def _upstream(
    model: Any, cond: Conditioning, noise: Tensor, sigmas: Tensor
) -> Callable[[], Tensor]:
    """An image the way diffusers' pipelines make it, both prompts in one batch."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    # Both prompts make one batch.
    assert cond.negative is not None
    prompts = (cond.negative, cond.positive)
    sequence = torch.stack([p.sequence for p in prompts])
    pooled_embeds = torch.stack([p.pooled_embeds for p in prompts])
    text_ids = torch.zeros(sequence.shape[1], 3, device=noise.device)
    guidance = torch.full((2,), cond.guidance or 0.0, device=noise.device)

    def image() -> Tensor:
        # The noise levels are shifted already.
        scheduler: Any = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=sigmas[:-1].tolist(), device=noise.device)
        latents = noise
        for t in scheduler.timesteps:
            hidden = torch.cat([latents, cond.packed], dim=2).repeat(2, 1, 1)
            v = model(
                hidden_states=hidden,
                timestep=t.expand(2).to(latents.dtype) / 1000,
                guidance=guidance,
                pooled_projections=pooled_embeds,
                encoder_hidden_states=sequence,
                txt_ids=text_ids,
                img_ids=cond.image_ids,
                return_dict=False,
            )[0]
            negative, positive = v.chunk(2)
            v = negative + TRUE_CFG * (positive - negative)
            latents = scheduler.step(v, t, latents, return_dict=False)[0]
        return latents

    return image


def _our_image(
    model: Any, cond: Conditioning, noise: Tensor, sigmas: Tensor, is_batched: bool = True
) -> Callable[[], Tensor]:
    def image() -> Tensor:
        table = make_table(model, cond, sigmas[:-1])
        velocity = make_velocity(model, cond, is_batched, is_mixed=False, table=table)
        return sample(velocity, noise.float(), sigmas, true_cfg=TRUE_CFG)

    return image


def measure_gradient_steps(variants: Variants) -> Iterator[dict[str, Any]]:
    """Yield a row per size: forward and backward of one step of a LoRA of rank 16, no guidance."""
    for name in ("eager", "ours"):
        _add_lora(variants.models[name])
    fused.attach(variants.models["ours"])
    for side in variants.scale.sides:
        inputs = variants.inputs(side, 1)
        # Without checkpointing only the smaller image fits a card of 80 GB for certain.
        modes = ["checkpointed"] + ["kept"] * (side == min(variants.scale.sides))
        for mode in modes:
            calls = {name: _step(variants.models[name], inputs) for name in ("eager", "ours")}
            if mode == "checkpointed":
                calls["ours, attention kept"] = _step(variants.models["ours"], inputs, True)
                checkpoint_blocks(variants.models["eager"])
            calls["ours"] = _step(variants.models["ours"], inputs, False, mode == "checkpointed")
            with variants.attention():
                gradients = {name: call() for name, call in calls.items()}
                row = {
                    "side": side, "mode": mode,
                    "difference": {
                        name: float((g - gradients["eager"]).norm() / gradients["eager"].norm())
                        for name, g in gradients.items() if name != "eager"
                    },
                    "us": interleave(calls, variants.device, max(variants.scale.rounds // 2, 1)),
                    "peak": {n: peak_bytes(c, variants.device) for n, c in calls.items()},
                }  # fmt: skip
            variants.models["eager"].disable_gradient_checkpointing()
            yield row


def _add_lora(model: Any) -> None:
    from peft import LoraConfig

    targets = (
        r"(single_)?transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
        r"|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)"
    )
    model.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=targets))
    generator: dict[torch.device, torch.Generator] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            device_generator = generator.setdefault(
                parameter.device, torch.Generator(parameter.device).manual_seed(1)
            )
            parameter.data = parameter.data.normal_(0, 0.01, generator=device_generator).to(
                next(model.parameters()).dtype
            )


def _step(
    model: Any,
    inputs: dict[str, Tensor],
    keep_attention: bool = False,
    is_checkpointed: bool = True,
) -> Callable[[], Tensor]:
    """A step's gradient at all parameters, as one vector of a few thousand of its numbers."""
    trainable = [p for p in model.parameters() if p.requires_grad]

    def step() -> Tensor:
        if fused.is_fused(model):
            model.disable_gradient_checkpointing()
            if is_checkpointed:
                checkpoint_blocks(model, keep_attention)
        with torch.enable_grad():
            (out,) = model(**inputs, return_dict=False)
        weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
        grads = torch.autograd.grad(out, trainable, weights.to(out.dtype))
        return torch.cat([g.flatten()[:32].float() for g in grads])

    return step


class CardHost(LocalHost):
    """A host whose device holds no more than a small card.

    Example: ``CardHost(torch.device("cuda")).free_bytes() == CARD_BYTES``.
    """

    def free_bytes(self, *components: Component) -> int:
        """Return what such a card would leave."""
        return CARD_BYTES - sum(component.num_bytes for component in components)


def measure_memory(variants: Variants) -> Iterator[dict[str, Any]]:
    """Yield the peak of an image on a card of 24 GB; all other variants are gone after it."""
    model = variants.models["ours"]
    if getattr(model, "peft_config", None):
        model.unload_lora()
    variants.models = {"ours": model}
    torch.compiler.reset()
    gc.collect()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    component = Component("transformer", lambda: model, size, variants.dtype)
    place_modulation(component, CardHost(variants.device), CARD_BYTES - component.num_bytes + 1)
    in_host = sum(type(norm.linear) is HostLinear for _, norm in modulated_norms(model))
    for side in variants.scale.sides:
        cond = variants.conditioning(side)
        noise = variants.draw(1, (side // 16) ** 2, variants.scale.config["out_channels"], seed=4)
        sigmas = make_sigmas(SCHEDULER, variants.scale.steps, noise.shape[1])
        for is_batched in (True, False):
            image = _our_image(model, cond, noise, sigmas, is_batched)
            with torch.no_grad():
                peak = peak_bytes(image, variants.device)
            yield {
                "side": side, "batched": is_batched, "layers_in_host_memory": in_host,
                "weight_bytes": component.num_bytes, "peak": peak,
            }  # fmt: skip
