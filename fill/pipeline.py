"""One run, from request to result: composition only, every step lives in its own module."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .canvas import Job, make_jobs
from .colour import correct_colour
from .denoise import SampleSpec, denoise
from .encode import Encoded, decode_latent, encode_job
from .host import Host
from .mask import composite
from .memory import Plan, make_plan, with_retry
from .models import FillModels
from .recipe import Settings, departures, settle
from .request import MAX_SEED, FillRequest, FillResult
from .task import Task
from .text import check_characters, encode_prompts, truncation_note

logger = logging.getLogger("onereward.fill")


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One picture to make: a candidate of a job."""

    job: Job
    encoded: Encoded
    seed: int


def run_fill(request: FillRequest, models: FillModels, host: Host) -> FillResult:
    """Edit the pictures of a request.

    Args:
        request: What to do; validated when it was made.
        models: The fill model with the adapters to use.
        host: Memory, progress and cancel.

    Returns:
        The pictures; wherever ``mask`` is 0 they equal the source bit for bit.

    Raises:
        ValueError: The words have characters that the model cannot write.
        NotEnoughMemory: It does not fit; the message says what to change.
    """
    config = request.config
    settings = settle(config, models.recipe)
    notes = _notes(request, models)
    for note in notes:
        host.say(note)
    timer = _Timer()
    with timer.stage("prepare"):
        jobs = make_jobs(request, models, settings)
    real = [job for job in jobs if job is not None]
    uses_cfg = settings.true_cfg != 1.0
    tokens = max((j.padded[0] * j.padded[1] for j in real), default=0) // models.multiple**2
    plan = make_plan(
        models, host, tokens, len(real) * config.num_candidates, uses_cfg, config.cfg_mode
    )
    with torch.no_grad():
        pictures = with_retry(
            plan, lambda p: _run(request, models, host, settings, jobs, p, timer), host
        )
    return _result(request, jobs, pictures, notes, timer)


def _run(
    request: FillRequest,
    models: FillModels,
    host: Host,
    settings: Settings,
    jobs: list[Job | None],
    plan: Plan,
    timer: _Timer,
) -> list[torch.Tensor]:
    """Return the finished pictures ``[H, W, 3]``, candidates of one job next to each other."""
    with timer.stage("text"):
        negative = [settings.negative_prompt] if settings.true_cfg != 1.0 else []
        prompts = encode_prompts(models, [request.full_prompt(), *negative], host)
    with timer.stage("encode"):
        encoded = [j and encode_job(j, models, host, plan, request.config.strength < 1) for j in jobs]
    rows = _rows(request, jobs, encoded)
    spec = SampleSpec(
        positive=prompts[0],
        negative=prompts[1] if negative else None,
        settings=settings,
        strength=request.config.strength,
        shift=request.config.shift,
    )
    with timer.stage("sample"):
        latents = denoise([(r.encoded, r.seed) for r in rows], spec, models, host, plan)
    made: list[torch.Tensor] = []
    for row, latent in zip(rows, latents, strict=True):
        with timer.stage("decode"):
            pixels = decode_latent(latent, models, host, plan)
        with timer.stage("stitch"):
            made.append(_stitch(row.job, pixels, request.config.colour_correction))
    return made


def _rows(
    request: FillRequest, jobs: list[Job | None], encoded: list[Encoded | None]
) -> list[_Row]:
    num = request.config.num_candidates
    return [
        _Row(job, done, (request.seed + b * num + n) % (MAX_SEED + 1))
        for b, (job, done) in enumerate(zip(jobs, encoded, strict=True))
        for n in range(num)
        if job is not None and done is not None
    ]


def _stitch(job: Job, pixels: torch.Tensor, correction: float) -> torch.Tensor:
    box = job.box
    rows, cols = slice(box.top, box.bottom), slice(box.left, box.right)
    old, alpha = job.canvas[rows, cols], job.alpha[rows, cols]
    # What the model repainted and what is not pasted are both no witness of the tone shift.
    unknown = torch.maximum(alpha, job.repaint[rows, cols])
    new = correct_colour(job.to_crop(pixels), old, unknown, correction)
    canvas = job.canvas.clone()
    canvas[rows, cols] = composite(new, old, alpha)
    return canvas


def _result(
    request: FillRequest,
    jobs: list[Job | None],
    pictures: list[torch.Tensor],
    notes: tuple[str, ...],
    timer: _Timer,
) -> FillResult:
    num = request.config.num_candidates
    made = iter(pictures)
    images, masks = [], []
    for b, job in enumerate(jobs):
        source = request.image[b % request.image.shape[0]].detach().to("cpu", torch.float32)
        alpha = torch.zeros(source.shape[:2]) if job is None else job.alpha
        for _ in range(num):
            images.append(source if job is None else next(made))
            masks.append(alpha)
    if None in jobs:
        notes = (*notes, f"{jobs.count(None)} pictures have an empty mask and stay as they are")
    total = len(jobs) * num
    logger.info(
        "%s: %d pictures in %.2f s", request.task.value, total, sum(timer.seconds.values())
    )
    return FillResult(
        image=torch.stack(images),
        mask=torch.stack(masks),
        seeds=tuple((request.seed + i) % (MAX_SEED + 1) for i in range(total)),
        notes=notes,
        seconds=timer.seconds,
    )


def _notes(request: FillRequest, models: FillModels) -> tuple[str, ...]:
    if request.task is Task.TEXT:
        check_characters(models, request.words)
    notes = []
    if left := departures(request.config, models.recipe):
        notes.append(f"settings that leave the recipe {models.recipe.name}: {', '.join(left)}")
    if note := truncation_note(models, request.full_prompt()):
        notes.append(note)
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
