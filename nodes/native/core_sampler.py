"""ComfyUI's own Euler sampler behind our engine, for what other nodes put on a MODEL for samplers.

CFG functions, wrappers such as EasyCache, and other noise schedules work on a whole sampler. What
is given to ComfyUI's is what the native graph gives it: the same noise, conditioning and schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch.nn.functional import pixel_shuffle

from ...fill.sampling.denoise import Row, SampleSpec
from ...fill.sampling.guidance import Prompt
from ...fill.sampling.latents import unpack_latents
from ...fill.sampling.schedule import truncate_schedule


class CoreSampler:
    """Samples rows of one size by ComfyUI's Euler sampler.

    Example: ``CoreSampler(model, factor=8)(rows, noise, sigmas, spec, on_step)``.

    Args:
        model: MODEL of FLUX.1 Fill, with whatever is on it.
        factor: Pixels per latent and side of the VAE.
    """

    def __init__(self, model: ModelPatcher, factor: int) -> None:
        self._model: Any = model
        self._factor = factor

    def __call__(
        self,
        rows: Sequence[Row],
        noise: torch.Tensor,
        sigmas: torch.Tensor,
        spec: SampleSpec,
        on_step: Callable[[torch.Tensor], None],
    ) -> torch.Tensor:
        """Return the latents ``[N, C, h, w]``, float32, scaled and shifted.

        Args:
            rows: Encoded images and their seeds.
            noise: ``[N, C, h, w]``, float32.
            sigmas: Noise levels; those of the MODEL's own schedule replace them, if it has one and
                no shift was asked for.
            spec: What the rows share.
            on_step: Called after each step with the estimate of the images, ``[N, C, h, w]``.
        """
        model, native = self._model, self._model.model
        if spec.shift < 0 and has_schedule(model):
            schedule = model.get_model_object("model_sampling")
            sigmas = comfy.samplers.calculate_sigmas(schedule, "simple", spec.settings.steps)
            sigmas = truncate_schedule(sigmas, spec.denoise)
        # What the native graph's latent and conditioning would hold.
        sources = [row[0].source for row in rows if row[0].source is not None]
        source = native.process_latent_out(torch.stack(sources)) if sources else noise * 0
        conditioning = self._conditioning(rows, noise.shape[1], spec)
        height, width = noise.shape[2:]
        keep = torch.stack([row[0].keep for row in rows])  # [N, S, 4]
        samples = comfy.sample.sample_custom(
            model,
            noise,
            float(spec.settings.true_cfg),
            comfy.samplers.sampler_object("euler"),
            sigmas,
            _conditions(spec.positive, conditioning),
            _conditions(spec.negative or spec.positive, conditioning),
            source,
            noise_mask=1 - unpack_latents(keep, height, width) if spec.preserves_unmasked else None,
            callback=lambda step, x0, x, total: on_step(x0),
            disable_pbar=True,
            seed=rows[0][1] % 2**63,
        )
        return native.process_latent_in(samples.float())

    def _conditioning(
        self, rows: Sequence[Row], num_channels: int, spec: SampleSpec
    ) -> dict[str, Any]:
        height, width = rows[0][0].size
        packed = torch.stack([row[0].conditioning for row in rows])  # [N, S, 4C + 4ff]
        channels = unpack_latents(packed, height, width)  # [N, C + ff, h, w]
        image, mask = channels[:, :num_channels], channels[:, num_channels:]
        return {
            "guidance": spec.settings.guidance,
            "concat_latent_image": self._model.model.process_latent_out(image),
            "concat_mask": pixel_shuffle(mask, self._factor),  # [N, 1, H, W]
        }


def has_schedule(model: Any) -> bool:
    """Tell whether a node such as ModelSamplingFlux has put a noise schedule on a MODEL."""
    return "model_sampling" in model.object_patches


def _conditions(prompt: Prompt, conditioning: dict[str, Any]) -> list[Any]:
    """Return a CONDITIONING of ComfyUI's with one prompt."""
    values = {"pooled_output": prompt.pooled_embeds[None], **conditioning}
    return [[prompt.sequence[None], values]]
