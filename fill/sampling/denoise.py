"""The sampling stage: rows of equal size go through the transformer together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from ..checkpoint.adapters import apply_adapters
from ..host import Host, Preview
from ..memory.plan import Plan, beside_bytes, placed, sample_bytes
from ..models import FillModels
from ..recipe import Settings
from ..transformer.fused import apply_kernels, use_kernels
from ..transformer.modulation import make_table, place_modulation
from .encode import EncodedJob
from .guidance import Conditioning, Prompt, make_velocity
from .latents import pack_latents, position_ids, unpack_latents, vae_factor
from .preview import preview_image
from .sampler import add_noise, sample
from .schedule import make_sigmas, truncate_schedule

Row = tuple[EncodedJob, int]
"""An encoded image and the seed of its noise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleSpec:
    """What all rows share. Example: ``denoise([(encoded, seed)], spec, models, host, plan)``."""

    positive: Prompt
    negative: Prompt | None
    settings: Settings
    denoise: float
    shift: float
    preserves_unmasked: bool = False


def denoise(
    rows: Sequence[Row], spec: SampleSpec, models: FillModels, host: Host, plan: Plan
) -> list[torch.Tensor]:
    """Return the latents ``[C, h, w]`` of every row, float32, on the CPU, in order."""
    chunks = list(_chunks(rows, plan.rows))
    if not chunks:
        return []
    is_single = spec.negative is None or plan.batched_cfg or models.sample_rows is not None
    passes = 1 if is_single else 2
    calls = _Calls(host, sum(len(_sigmas(c, spec, models)) - 1 for c in chunks) * passes)
    apply_adapters(models.transformer.module, models.adapters)
    apply_kernels(models.transformer.module, models.kernels, host.device)
    prompts = 2 if spec.negative is not None and plan.batched_cfg else 1
    room = max(
        sample_bytes(models, len(c) * prompts, c[0][0].conditioning.shape[0]) for c in chunks
    )
    room += beside_bytes(models)
    place_modulation(models.transformer, host, room)
    latents: list[torch.Tensor] = []
    with placed(models.transformer, host, room, plan.weight_bytes):
        for chunk in chunks:
            latents.extend(_denoise_chunk(chunk, spec, models, host.device, plan, calls))
    return latents


def sample_noise(channels: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Return the noise of one image, ``[C, h, w]``, float32, drawn on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(channels, *size, generator=generator)


def _chunks(rows: Sequence[Row], limit: int) -> Iterator[list[Row]]:
    for _, group in groupby(rows, key=lambda row: row[0].size):
        members = list(group)
        for start in range(0, len(members), limit):
            yield members[start : start + limit]


def _sigmas(chunk: list[Row], spec: SampleSpec, models: FillModels) -> torch.Tensor:
    tokens = chunk[0][0].conditioning.shape[0]
    sigmas = make_sigmas(models.scheduler_config, spec.settings.steps, tokens, spec.shift)
    return truncate_schedule(sigmas, spec.denoise)


def _denoise_chunk(
    chunk: list[Row],
    spec: SampleSpec,
    models: FillModels,
    device: torch.device,
    plan: Plan,
    calls: _Calls,
) -> list[torch.Tensor]:
    height, width = chunk[0][0].size
    sigmas = _sigmas(chunk, spec, models)
    # Noise and conditioning.
    noise = torch.stack([_noise(row, models) for row in chunk])  # [N, C, h, w]
    factor, weights = vae_factor(models.vae_config), chunk[0][0].preview
    if models.sample_rows is not None:

        def on_estimate(x0: torch.Tensor) -> None:
            calls.before()
            calls.after(lambda: preview_image(x0[0], weights, factor))

        return list(models.sample_rows(chunk, noise, sigmas, spec, on_estimate).cpu())
    x = pack_latents(_start(chunk, noise, sigmas[0])).to(device)  # [N, S, 4C]
    cond = _conditioning(chunk, spec, models, device)
    transformer = models.transformer.module
    velocity = make_velocity(
        transformer,
        cond,
        plan.batched_cfg,
        calls.before,
        is_mixed=False,
        table=make_table(transformer, cond, sigmas[:-1]),
    )
    # Preview, source to blend in, and sampling.

    def on_step(_: int, x0: torch.Tensor) -> None:
        first = x0[:1]
        calls.after(lambda: preview_image(unpack_latents(first, height, width)[0], weights, factor))

    blend = _blend(chunk, noise, device) if spec.preserves_unmasked else None
    with use_kernels(models.kernels):
        packed = sample(velocity, x, sigmas, on_step, spec.settings.true_cfg, blend)
    return list(unpack_latents(packed, height, width).cpu())


def _noise(row: Row, models: FillModels) -> torch.Tensor:
    encoded, seed = row
    return sample_noise(models.vae_config["latent_channels"], encoded.size, seed)


def _sources(chunk: list[Row]) -> torch.Tensor | None:
    sources = [row[0].source for row in chunk if row[0].source is not None]
    return torch.stack(sources) if sources else None


def _start(chunk: list[Row], noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    sources = _sources(chunk)
    return noise if sources is None else add_noise(sources, noise, sigma)


def _blend(
    chunk: list[Row], noise: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sources = _sources(chunk)
    assert sources is not None, "encoding makes the source if it is to be preserved"
    keep = torch.stack([row[0].keep for row in chunk])
    return keep.to(device), pack_latents(sources).to(device), pack_latents(noise).to(device)


def _conditioning(
    chunk: list[Row], spec: SampleSpec, models: FillModels, device: torch.device
) -> Conditioning:
    dtype = models.transformer.dtype
    height, width = chunk[0][0].size
    return Conditioning(
        packed=torch.stack([row[0].conditioning for row in chunk]).to(device, dtype),
        image_ids=position_ids(height, width, device),
        positive=spec.positive.to(device, dtype),
        negative=spec.negative and spec.negative.to(device, dtype),
        true_cfg=spec.settings.true_cfg,
        guidance=spec.settings.guidance if models.has_guidance else None,
    )


class _Calls:
    """Counts model calls; the host hears before each (cancel) and after (progress, preview)."""

    def __init__(self, host: Host, total: int) -> None:
        self._host = host
        self._total = total
        self._count = 0

    def before(self) -> None:
        """Poll for cancel, show that a call begins, and count it."""
        self._host.check_cancelled()
        self._host.progress(self._count, self._total)
        self._count += 1

    def after(self, preview: Preview) -> None:
        """Report what has been done."""
        self._host.progress(self._count, self._total, preview)
