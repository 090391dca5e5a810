"""One run, from request to result: composition only, every step lives in its own module."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .demo_model import demo_note
from .host import Host
from .image.canvas import Job, make_jobs
from .image.islands import split_job
from .image.stitch import stitch
from .memory.plan import Plan, limited, make_plan, with_retry
from .models import FillModels
from .recipe import Settings, deviations, resolve_settings
from .request import FillRequest, FillResult
from .sampling.denoise import SampleSpec, denoise
from .sampling.encode import EncodedJob, decode_latent, encode_job
from .sampling.text import check_characters, encode_prompts, prompt_notes
from .task import Task

logger = logging.getLogger("onereward.fill")

MAX_NAMED = 20
"""Of images that stay as they are, in a note."""


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One crop to sample, of a candidate of an image."""

    image: int
    candidate: int
    job: Job
    encoded: EncodedJob
    seed: int


def run_fill(request: FillRequest, models: FillModels, host: Host, number: int = 1) -> FillResult:
    """Edit the images of a request.

    Args:
        request: What to do; validated when it was made.
        models: The fill model with the adapters to use.
        host: Memory, progress and cancel.
        number: What notes call the first image, which may be one of a list.

    Returns:
        The images; wherever ``mask`` is 0 they equal the source bit for bit.

    Raises:
        ValueError: The words have characters that the model cannot write.
        NotEnoughMemory: It does not fit; the message says what to change.
        ArithmeticError: A stage gave NaN or infinite values; the message names it.
    """
    host = limited(models, host)
    settings = resolve_settings(request.config, models.recipe)
    notes = _notes(request, models)
    for note in notes:
        host.notify(note)
    timer = _Timer()
    with timer.stage("prepare"):
        crops, crop_notes = _crops(request, models, settings)
        crop_notes += _unchanged_notes(crops, number)
    for note in crop_notes:
        host.notify(note)
    if not any(crops):
        return _result(request, crops, [], (*notes, *crop_notes), timer)
    run = _Run(request, models, host, settings, crops, timer)
    plan = run.plan()
    if plan.weight_bytes is not None:
        host.notify(f"the model is larger than the free memory: {plan.describe()}")
    with torch.no_grad():
        images = with_retry(plan, run.images, host)
    return _result(request, crops, images, (*notes, *crop_notes), timer)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What the stages of a run share."""

    request: FillRequest
    models: FillModels
    host: Host
    settings: Settings
    crops: list[list[Job]]
    """What to sample for each image; nothing where its mask is empty."""
    timer: _Timer

    @property
    def uses_cfg(self) -> bool:
        """Whether the negative prompt is used."""
        return self.settings.true_cfg != 1.0

    def plan(self) -> Plan:
        """Return the plan for the largest image of the run."""
        jobs = [job for crops in self.crops for job in crops]
        pixels = max((job.padded[0] * job.padded[1] for job in jobs), default=0)
        return make_plan(
            self.models,
            self.host,
            num_tokens=pixels // self.models.multiple**2,
            num_rows=len(jobs) * self.request.config.num_candidates,
            uses_cfg=self.uses_cfg,
            cfg_mode=self.request.config.cfg_mode,
        )

    def images(self, plan: Plan) -> list[torch.Tensor]:
        """Return the finished images ``[H, W, 3]``, candidates of one job next to each other."""
        spec = self.sample_spec()
        with self.timer.stage("encode"):
            rows = self.rows(plan)
        with self.timer.stage("sample"):
            latents = denoise(
                [(row.encoded, row.seed) for row in rows], spec, self.models, self.host, plan
            )
        _check_finite("sampling", "the transformer's weights or an adapter", latents)
        # The crops of one image are pasted one after the other.
        images: dict[tuple[int, int], torch.Tensor] = {}
        for row, latent in zip(rows, latents, strict=True):
            key = (row.image, row.candidate)
            images[key] = self.paste(row, latent, plan, images.get(key))
        return list(images.values())

    def rows(self, plan: Plan) -> list[_Row]:
        """Encode every crop once and return a row for each of its candidates."""
        config = self.request.config
        needs_source = config.denoise < 1 or config.preserve_unmasked
        rows = []
        for image, crops in enumerate(self.crops):
            encoded = [encode_job(job, self.models, self.host, plan, needs_source) for job in crops]
            latents = [item.conditioning for item in encoded]
            _check_finite("encoding the image", "the VAE's weights", latents)
            for candidate in range(config.num_candidates):
                seed = self.request.candidate_seed(image, candidate)
                rows += [
                    _Row(image, candidate, *pair, seed) for pair in zip(crops, encoded, strict=True)
                ]
        return rows

    def sample_spec(self) -> SampleSpec:
        """Encode the prompts and collect what all rows share."""
        texts = [self.request.full_prompt()]
        if self.uses_cfg:
            texts.append(self.settings.negative_prompt)
        with self.timer.stage("text"):
            prompts = encode_prompts(self.models, texts, self.host)
        states = [state for prompt in prompts for state in (prompt.sequence, prompt.pooled_embeds)]
        _check_finite("encoding the prompt", "a text encoder's weights", states)
        return SampleSpec(
            positive=prompts[0],
            negative=prompts[1] if self.uses_cfg else None,
            settings=self.settings,
            denoise=self.request.config.denoise,
            shift=self.request.config.shift,
            preserves_unmasked=self.request.config.preserve_unmasked,
        )

    def paste(
        self, row: _Row, latent: torch.Tensor, plan: Plan, onto: torch.Tensor | None
    ) -> torch.Tensor:
        """Decode one row and put it into its image, which may have other crops already."""
        with self.timer.stage("decode"):
            pixels = decode_latent(latent, self.models, self.host, plan)
        _check_finite("decoding", "the VAE's weights", [pixels])
        with self.timer.stage("stitch"):
            return stitch(row.job, pixels, self.request.config.colour_correction, onto)


def _check_finite(stage: str, suspect: str, values: Iterable[torch.Tensor]) -> None:
    """Raise ArithmeticError where NaN would become a black image, or none of the request's."""
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise ArithmeticError(
            f"{stage} gave values that are no finite numbers; {suspect} may be damaged, or too "
            "large for fp16: download the file again, or choose precision bf16"
        )


def _crops(
    request: FillRequest, models: FillModels, settings: Settings
) -> tuple[list[list[Job]], tuple[str, ...]]:
    """Return the crops of each image, and what is to be told of them, each sentence once."""
    crops: list[list[Job]] = []
    notes: list[str] = []
    for job in make_jobs(request, models, settings):
        islands, sentences = ([], ()) if job is None else split_job(job, request, models, settings)
        crops.append(islands)
        notes += [note for note in sentences if note not in notes]
    return crops, tuple(notes)


def _unchanged_notes(crops: list[list[Job]], first: int) -> tuple[str, ...]:
    """Return the sentence that names the images without anything to paint, if there are any."""
    numbers = [str(first + b) for b, islands in enumerate(crops) if not islands]
    if not numbers:
        return ()
    if len(numbers) == 1:
        return (f"image {numbers[0]} has an empty mask and stays as it is",)
    more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
    names = ", ".join(numbers[:MAX_NAMED]) + more
    return (f"images {names} have an empty mask and stay as they are",)


def _result(
    request: FillRequest,
    crops: list[list[Job]],
    finished: list[torch.Tensor],
    notes: tuple[str, ...],
    timer: _Timer,
) -> FillResult:
    num = request.config.num_candidates
    # Images and masks in the order of the request.
    edited = iter(finished)
    images, masks = [], []
    for b, islands in enumerate(crops):
        source = request.image[b % request.image.shape[0]].detach().to("cpu", torch.float32)
        alpha = torch.zeros(islands[0].canvas.shape[:2] if islands else source.shape[:2])
        for job in islands:
            part = alpha[job.window.rows, job.window.cols]
            torch.maximum(part, job.alpha, out=part)
        for _ in range(num):
            images.append(next(edited) if islands else source)
            masks.append(alpha)
    total = len(crops) * num
    logger.info("%s: %d images in %.2f s", request.task.value, total, sum(timer.seconds.values()))
    return FillResult(
        image=torch.stack(images),
        mask=torch.stack(masks),
        seeds=tuple(request.candidate_seed(b, n) for b in range(len(crops)) for n in range(num)),
        notes=notes,
        seconds=timer.seconds,
    )


def _notes(request: FillRequest, models: FillModels) -> tuple[str, ...]:
    if request.task is Task.TEXT:
        check_characters(models, request.text)
    notes = []
    if left := deviations(request.config, models.recipe):
        notes.append(f"settings that leave the recipe {models.recipe.name}: {', '.join(left)}")
    if note := demo_note(request, models):
        notes.append(note)
    notes += prompt_notes(models, request.full_prompt())
    return tuple(notes)


class _Timer:
    """Wall-clock seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
