"""The engine against diffusers' own FluxFillPipeline and against a hand-written guidance loop."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch

from onereward.fill.config import FillConfig
from onereward.fill.image.canvas import make_jobs
from onereward.fill.memory.plan import Plan
from onereward.fill.recipe import resolve_settings
from onereward.fill.request import FillRequest
from onereward.fill.sampling.denoise import SampleSpec, denoise, sample_noise
from onereward.fill.sampling.encode import EncodedJob, encode_job
from onereward.fill.sampling.latents import pack_latents, pack_mask, unpack_latents
from onereward.fill.sampling.text import encode_prompts
from onereward.fill.task import Task
from support.bundled_models import BUNDLED, bundled_models
from support.recording_host import RecordingHost

# Float32 rounding over eight steps, on latents with a standard deviation of about 1.
TOLERANCE = 2e-4
STEPS = 8
PLAN = Plan(rows=1, batched_cfg=True, tiled_vae=False)


@functools.cache
def _pipeline() -> Any:
    from diffusers import FluxFillPipeline

    pipeline = FluxFillPipeline.from_pretrained(BUNDLED, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _request(**settings: Any) -> FillRequest:
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(1, 64, 64, 3, generator=generator)
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:44, 16:40] = 1
    config = FillConfig(steps=STEPS, grow=0, feather=0, crop_to_context=False, **settings)
    return FillRequest(
        task=Task.FILL, image=image, mask=mask, prompt="a red circle", seed=11, config=config
    )


def _engine_latents(request: FillRequest, negative: str | None) -> tuple[torch.Tensor, EncodedJob]:
    models, host = bundled_models(), RecordingHost()
    settings = resolve_settings(request.config, models.recipe)
    (job,) = make_jobs(request, models, settings)
    assert job is not None
    encoded = encode_job(job, models, host, PLAN, request.config.denoise < 1)
    texts = [request.full_prompt()] + ([] if negative is None else [negative])
    prompts = encode_prompts(models, texts, host)
    spec = SampleSpec(
        positive=prompts[0],
        negative=prompts[1] if negative is not None else None,
        settings=settings,
        denoise=request.config.denoise,
        shift=request.config.shift,
    )
    return denoise([(encoded, request.seed)], spec, models, host, PLAN)[0], encoded


@pytest.mark.parametrize("denoise", [1.0, 0.75, 0.3], ids=["full", "late", "last"])
def test_same_latents_as_the_pipeline(denoise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pipeline draws the masked image's latents from the posterior; we take its mode.
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )
    request = _request(denoise=denoise, guidance=3.5, true_cfg=1.0)
    latents, encoded = _engine_latents(request, None)
    pipeline, models = _pipeline(), bundled_models()
    pixels = request.image.permute(0, 3, 1, 2)
    assert request.mask is not None
    noise = sample_noise(models.vae_config["latent_channels"], encoded.size, request.seed)
    start = pack_latents(noise[None])
    if encoded.source is not None:
        scheduler = pipeline.scheduler
        count = pipeline_steps(denoise)
        sigma = _sigmas_by_hand(scheduler.config, STEPS, start.shape[1])[STEPS - count]
        start = pack_latents(((1 - sigma) * encoded.source + sigma * noise)[None])
    reference = pipeline(
        prompt=request.prompt,
        image=pixels,
        mask_image=request.mask[:, None],
        height=64,
        width=64,
        strength=denoise,
        num_inference_steps=STEPS,
        guidance_scale=3.5,
        latents=start,
        max_sequence_length=models.recipe.max_sequence_length,
        output_type="latent",
    ).images
    expected = unpack_latents(reference, *encoded.size)[0]
    assert (latents - expected).abs().max() < TOLERANCE


def pipeline_steps(denoise: float) -> int:
    """diffusers' ``get_timesteps``, written again."""
    return STEPS - int(max(STEPS - STEPS * denoise, 0))


def test_conditioning_equals_the_pipelines() -> None:
    request = _request()
    _, encoded = _engine_latents(request, None)
    pipeline = _pipeline()
    assert request.mask is not None
    pixels = request.image.permute(0, 3, 1, 2) * 2 - 1
    mask = request.mask[:, None]
    # The pipeline draws from the posterior; its mode is what a reproducible run wants.
    mode = pipeline.vae.encode(pixels * (1 - mask)).latent_dist.mode()
    packed_mask, packed_image = pipeline.prepare_mask_latents(
        mask, mode, 1, mode.shape[1], 1, 64, 64, torch.float32, torch.device("cpu"), None
    )
    expected = torch.cat([packed_image, packed_mask], dim=-1)[0]
    assert torch.allclose(encoded.conditioning, expected, atol=1e-5)


def test_prompts_equal_the_pipelines() -> None:
    models = bundled_models()
    prompts = encode_prompts(models, ["a red circle", ""], RecordingHost())
    for prompt, text in zip(prompts, ["a red circle", ""], strict=True):
        sequence, clip_state, _ = _pipeline().encode_prompt(
            prompt=text, prompt_2=None, max_sequence_length=models.recipe.max_sequence_length
        )
        assert torch.allclose(prompt.sequence, sequence[0], atol=1e-5)
        assert torch.allclose(prompt.pooled_embeds, clip_state[0], atol=1e-5)


@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_true_guidance_equals_a_loop_by_hand(mode: str) -> None:
    request = _request(true_cfg=4.0, guidance=1.0, negative_prompt="nsfw", cfg_mode=mode)
    plan = Plan(rows=1, batched_cfg=mode == "batched", tiled_vae=False)
    models, host = bundled_models(), RecordingHost()
    settings = resolve_settings(request.config, models.recipe)
    (job,) = make_jobs(request, models, settings)
    assert job is not None
    encoded = encode_job(job, models, host, plan, False)
    positive, negative = encode_prompts(models, [request.prompt, "nsfw"], host)
    spec = SampleSpec(
        positive=positive, negative=negative, settings=settings, denoise=1.0, shift=-1.0
    )
    latents = denoise([(encoded, request.seed)], spec, models, host, plan)[0]
    expected = _guided_by_hand(encoded, request.seed)
    assert (latents - unpack_latents(expected, *encoded.size)[0]).abs().max() < TOLERANCE


@torch.no_grad()
def _guided_by_hand(encoded: EncodedJob, seed: int) -> torch.Tensor:
    """v = v_neg + 4 (v_pos - v_neg) with diffusers' transformer and text encoders only."""
    pipeline, models = _pipeline(), bundled_models()
    length = models.recipe.max_sequence_length
    noise = sample_noise(models.vae_config["latent_channels"], encoded.size, seed)
    x = pack_latents(noise[None])
    sigmas = _sigmas_by_hand(pipeline.scheduler.config, STEPS, x.shape[1])
    ids = pipeline._prepare_latent_image_ids(
        1, encoded.size[0] // 2, encoded.size[1] // 2, torch.device("cpu"), torch.float32
    )
    for now, after in itertools.pairwise(sigmas):
        v = []
        for text in ("nsfw", "a red circle"):
            sequence, clip_state, text_ids = pipeline.encode_prompt(
                prompt=text, prompt_2=None, max_sequence_length=length
            )
            v.append(
                pipeline.transformer(
                    hidden_states=torch.cat([x, encoded.conditioning[None]], dim=2),
                    timestep=torch.tensor([now]),
                    guidance=torch.tensor([1.0]),
                    pooled_projections=clip_state,
                    encoder_hidden_states=sequence,
                    txt_ids=text_ids,
                    img_ids=ids,
                    return_dict=False,
                )[0]
            )
        x = x + (after - now) * (v[0] + 4.0 * (v[1] - v[0]))
    return x


def _sigmas_by_hand(config: Any, steps: int, tokens: int) -> list[float]:
    """The resolution shift of the FLUX paper, from its formula."""
    slope = (config.max_shift - config.base_shift) / (
        config.max_image_seq_len - config.base_image_seq_len
    )
    shift = math.exp(config.base_shift + slope * (tokens - config.base_image_seq_len))
    even = [1 - i * (1 - 1 / steps) / max(steps - 1, 1) for i in range(steps)]
    return [shift / (shift + (1 / s - 1)) for s in even] + [0.0]


def test_mask_packing_equals_an_explicit_loop() -> None:
    factor, height, width = 4, 16, 24
    mask = (torch.rand(1, height, width, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    packed = pack_mask(mask, factor)
    tokens_wide = width // (2 * factor)
    for token in range(packed.shape[1]):
        top, left = token // tokens_wide * 2 * factor, token % tokens_wide * 2 * factor
        expected = [
            mask[0, top + row * factor + p, left + col * factor + q]
            for p in range(factor)
            for q in range(factor)
            for row in range(2)
            for col in range(2)
        ]
        assert packed[0, token].tolist() == [float(v) for v in expected]
