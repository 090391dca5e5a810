"""Areas far apart are sampled as crops of their own, and land in one image."""

from __future__ import annotations

from typing import Any

import torch

from onereward.fill.config import FillConfig
from onereward.fill.image.canvas import Job, make_jobs
from onereward.fill.image.geometry import Box
from onereward.fill.image.islands import MAX_ISLANDS, split_job
from onereward.fill.pipeline import run_fill
from onereward.fill.recipe import ONEREWARD, resolve_settings
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from support.bundled_models import bundled_models
from support.recording_host import RecordingHost


class Large:
    """The sizes of the published model."""

    recipe = ONEREWARD
    multiple = 16


def squares(size: int, side: int, *corners: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(size, size)
    for left, top in corners:
        mask[top : top + side, left : left + side] = 1
    return mask


def split(mask: torch.Tensor, **changes: Any) -> tuple[list[Job], tuple[str, ...]]:
    image = torch.zeros(1, 1, 1, 1).expand(1, *mask.shape, 3)
    values = {"task": Task.REMOVE, "image": image, "mask": mask} | changes
    request = FillRequest(**values)
    settings = resolve_settings(request.config, ONEREWARD)
    (job,) = make_jobs(request, Large(), settings)
    assert job is not None
    return split_job(job, request, Large(), settings)


def alpha_of(job: Job) -> torch.Tensor:
    """Return how much of each pixel of the whole canvas a job replaces."""
    alpha = torch.zeros(job.canvas.shape[:2])
    alpha[job.window.rows, job.window.cols] = job.alpha
    return alpha


def test_two_areas_of_a_photograph_are_two_crops_at_full_size() -> None:
    jobs, notes = split(squares(2048, 100, (50, 50), (1850, 1750)))
    assert len(jobs) == 2
    assert "2 areas far apart" in notes[0]
    for job, inside in zip(jobs, ((100, 100), (1900, 1800)), strict=True):
        assert job.box.left <= inside[0] < job.box.right
        assert job.box.top <= inside[1] < job.box.bottom
        assert job.content[0] >= job.box.width, "no detail is lost"
        assert alpha_of(job)[inside[1], inside[0]] == 1
    assert not ((alpha_of(jobs[0]) > 0) & (alpha_of(jobs[1]) > 0)).any()


def test_what_one_crop_shows_well_stays_one() -> None:
    near = squares(2048, 50, (50, 50), (250, 150))
    assert len(split(near)[0]) == 1
    in_small = squares(512, 30, (10, 10), (460, 460))
    assert len(split(in_small)[0]) == 1
    large = squares(2560, 2000, (300, 300))
    jobs, notes = split(large)
    assert len(jobs) == 1
    assert "is sampled at" in notes[0], "the user hears that detail is lost"


def test_a_crop_of_a_large_canvas_holds_no_mask_of_all_of_it() -> None:
    mask = squares(4096, 200, (50, 50), (3800, 3700), (100, 3700))
    jobs, _ = split(mask)
    assert len(jobs) == 3
    for job in jobs:
        num_pixels = job.box.width * job.box.height
        assert num_pixels < mask.numel() / 8
        for part in (job.mask, job.repaint, job.alpha):
            assert part.untyped_storage().nbytes() == num_pixels * part.element_size()
    together = torch.stack([alpha_of(job) for job in jobs]).amax(0)
    assert bool((together[mask > 0] == 1).all())


def test_letters_extensions_and_own_masks_stay_one() -> None:
    mask = squares(2048, 100, (50, 50), (1850, 1750))
    assert len(split(mask, task=Task.TEXT, text="A")[0]) == 1
    assert len(split(mask, stitch_mask=mask)[0]) == 1
    assert len(split(mask, context_mask=mask)[0]) == 1
    assert len(split(mask, config=FillConfig(crop_to_context=False))[0]) == 1


def test_many_areas_have_a_limit() -> None:
    corners = [(x, y) for x in range(50, 2000, 500) for y in range(50, 2000, 500)]
    jobs, _ = split(squares(2048, 20, *corners))
    assert 2 <= len(jobs) <= MAX_ISLANDS
    together = torch.stack([alpha_of(job) for job in jobs])
    assert ((together > 0).sum(0) <= 1).all()
    assert all(together.amax(0)[y + 10, x + 10] == 1 for x, y in corners)


def test_all_areas_land_in_one_image_and_nothing_else_changes() -> None:
    """The bundled model works at 64 pixels, so that 512 are far for it."""
    mask = squares(512, 24, (20, 20), (460, 440))
    image = torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(1))
    request = FillRequest(
        task=Task.FILL,
        image=image,
        mask=mask,
        prompt="a red circle",
        config=FillConfig(steps=2, num_candidates=2),
    )
    result = run_fill(request, bundled_models(), RecordingHost())
    assert result.image.shape == (2, 512, 512, 3)
    assert any("2 areas far apart" in note for note in result.notes)
    untouched = result.mask[0] == 0
    for candidate in result.image:
        assert torch.equal(candidate[untouched], image[0][untouched])
        for box in (Box(20, 20, 44, 44), Box(460, 440, 484, 464)):
            assert not torch.equal(candidate[box.rows, box.cols], image[0, box.rows, box.cols])
    assert untouched.float().mean() > 0.98
    # Each area alone gives the same pixels, since its crop is the same.
    alone = run_fill(
        FillRequest(
            task=Task.FILL,
            image=image,
            mask=squares(512, 24, (20, 20)),
            prompt="a red circle",
            config=FillConfig(steps=2),
        ),
        bundled_models(),
        RecordingHost(),
    )
    assert torch.allclose(alone.image[0, :100, :100], result.image[0, :100, :100], atol=1e-5)


def test_a_stray_pixel_or_haze_does_not_lose_the_edit() -> None:
    clean = squares(512, 32, (200, 200))
    stray = clean.clone()
    stray[500, 10] = 1
    results = [
        run_fill(
            FillRequest(
                task=Task.FILL,
                image=torch.full((1, 512, 512, 3), 0.5),
                mask=mask,
                prompt="a red circle",
                config=FillConfig(steps=2),
            ),
            bundled_models(),
            RecordingHost(),
        )
        for mask in (clean, stray, clean.clamp_min(0.05), clean * 0.4)
    ]
    for result in results[1:]:
        assert torch.equal(result.image, results[0].image)
        assert torch.equal(result.mask, results[0].mask)
