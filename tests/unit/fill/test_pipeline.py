"""Guarantees of a whole run on the bundled model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from onereward.fill import pipeline
from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.image.canvas import make_jobs
from onereward.fill.image.geometry import Extension
from onereward.fill.memory.plan import NotEnoughMemory
from onereward.fill.models import load_fill_models
from onereward.fill.native import prepare_native
from onereward.fill.pipeline import run_fill
from onereward.fill.recipe import ONEREWARD, resolve_settings
from onereward.fill.request import FillRequest, FillResult
from onereward.fill.sampling.latents import unpack_latents
from onereward.fill.task import Task
from support import machine
from support.bundled_models import bundled_models
from support.recording_host import CancelledError, RecordingHost

FAST = {"steps": 2}


def random_image(height: int = 64, width: int = 64, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Smooth random colours, so that a VAE has something it can represent."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return fine.clamp(0, 1).permute(0, 2, 3, 1)


def square(height: int, width: int, left: int, top: int, side: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, top : top + side, left : left + side] = 1
    return mask


def run(task: Task = Task.FILL, host: RecordingHost | None = None, **changes: Any) -> FillResult:
    config = FillConfig(**{**FAST, **changes.pop("config", {})})
    changes.setdefault("image", random_image())
    if task is not Task.EXTEND:
        changes.setdefault("mask", square(64, 64, 20, 20, 24))
    if task in (Task.FILL, Task.EXTEND):
        changes.setdefault("prompt", "a red circle")
    request = FillRequest(task=task, config=config, **changes)
    return run_fill(request, bundled_models(), host or RecordingHost())


@pytest.mark.parametrize(
    ("height", "width"),
    [(16, 16), (17, 31), (64, 64), (65, 63), (200, 90), (333, 257)],
    ids=lambda v: str(v),
)
@pytest.mark.parametrize("crop", [True, False], ids=["crop", "whole"])
def test_outside_the_mask_nothing_changes(height: int, width: int, crop: bool) -> None:
    image = random_image(height, width)
    side = min(height, width) // 3
    mask = square(height, width, width // 3, height // 3, side)
    config = {"crop_to_context": crop, "grow": 2, "feather": 2}
    result = run(image=image, mask=mask, config=config)
    assert result.image.shape == image.shape
    untouched = result.mask == 0
    assert untouched.any()
    assert torch.equal(result.image[untouched], image[untouched])
    assert not torch.equal(result.image, image)
    assert (result.mask[mask == 1] > 0).all()


def test_values_a_codec_would_change_stay_too() -> None:
    image = random_image()
    image[0, 0, 0] = torch.tensor([1 / 3, 1e-7, 0.999999])
    result = run(image=image)
    assert torch.equal(result.image[0, 0, 0], image[0, 0, 0])


def test_half_a_frame_changes_only_its_half() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    image = random_image()
    result = run(image=image, mask=mask, config={"grow": 0, "feather": 0})
    assert torch.equal(result.image[:, :, :32], image[:, :, :32])
    assert (result.image[:, :, 32:] != image[:, :, 32:]).any(dim=-1).float().mean() > 0.9


def test_a_full_mask_equals_the_bare_decode() -> None:
    """With everything repainted there is nothing to blend with and nothing to correct by."""
    config = {"colour_correction": 1.0, "grow": 4, "feather": 4}
    first = run(mask=torch.ones(1, 64, 64), config=config)
    second = run(
        image=1 - random_image(),
        mask=torch.ones(1, 64, 64),
        config={"grow": 0, "feather": 0, "colour_correction": 0.0},
    )
    assert torch.equal(first.image, second.image), "the source must not shine through a full mask"


@pytest.mark.parametrize("task", list(Task))
def test_every_task_runs(task: Task) -> None:
    extra: dict[str, Any] = {}
    if task is Task.TEXT:
        extra["text"] = "AB"
    if task is Task.EXTEND:
        extra["extension"] = Extension(left=8, top=3, right=5, bottom=0)
    result = run(task, **extra)
    expected = (1, 67, 77, 3) if task is Task.EXTEND else (1, 64, 64, 3)
    assert result.image.shape == expected
    assert result.mask.shape == expected[:3]
    assert torch.isfinite(result.image).all()
    assert result.image.min() >= 0
    assert result.image.max() <= 1


@pytest.mark.parametrize("bottom", [0, 5], ids=["three-sides", "all-sides"])
def test_extend_keeps_the_source_where_it_was(bottom: int) -> None:
    image = random_image()
    extension = Extension(left=10, top=6, right=4, bottom=bottom)
    result = run(Task.EXTEND, image=image, extension=extension)
    inner, mask = result.image[:, 6:70, 10:74], result.mask[:, 6:70, 10:74]
    assert (mask == 0).float().mean() > 0.85
    assert torch.equal(inner[mask == 0], image[mask == 0])
    outside = torch.ones_like(result.mask, dtype=torch.bool)
    outside[:, 6:70, 10:74] = False
    assert (result.mask[outside] == 1).all(), "new pixels have nothing to fade into"


def test_extend_takes_a_mask_where_the_source_is_on_its_canvas() -> None:
    mask = torch.ones(1, 64, 64)
    mask[:, 16:48, 16:48] = 0
    image = random_image()
    result = run(Task.EXTEND, image=image, mask=mask)
    assert (result.mask[mask == 1] == 1).all()
    assert torch.equal(result.image[result.mask == 0], image[result.mask == 0])
    assert (result.mask[:, 24:40, 24:40] == 0).all()


@pytest.mark.parametrize("holds", [True, False], ids=["held", "free"])
@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_a_held_source_is_kept_in_latents(
    denoise: float, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, decoder_inputs = [], []
    encode, decode = pipeline.encode_job, pipeline.decode_latent
    monkeypatch.setattr(
        pipeline, "encode_job", lambda *args: sources.append(encode(*args)) or sources[-1]
    )
    monkeypatch.setattr(
        pipeline, "decode_latent", lambda *args: decoder_inputs.append(args[0]) or decode(*args)
    )
    mask = torch.cat([square(64, 64, 21, 22, 24), square(64, 64, 2, 2, 8)])
    config = {"preserve_unmasked": holds, "denoise": denoise, "crop_to_context": False}
    run(image=random_image(batch=2), mask=mask, config=config)
    assert len(decoder_inputs) == 2
    for encoded, latents in zip(sources, decoder_inputs, strict=True):
        keep = unpack_latents(encoded.keep[None], *encoded.size)[0, 0].bool()
        assert 0.3 < keep.float().mean() < 1
        if holds:
            assert torch.equal(latents[:, keep], encoded.source[:, keep])
            assert not torch.equal(latents[:, ~keep], encoded.source[:, ~keep])
        elif encoded.source is not None:
            assert not torch.equal(latents[:, keep], encoded.source[:, keep])


@pytest.mark.parametrize("setting", [{"denoise": 0.5}, {"preserve_unmasked": True}], ids=str)
def test_native_sampling_refuses_settings_of_our_sampler(setting: dict[str, Any]) -> None:
    request = FillRequest(
        task=Task.FILL,
        image=random_image(),
        mask=square(64, 64, 20, 20, 24),
        prompt="a red circle",
        config=FillConfig(**setting),
    )
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is .*, but"):
        prepare_native(request, ONEREWARD, factor=8)


def test_candidates_can_be_reproduced_alone() -> None:
    image = torch.cat([random_image(seed=1), random_image(seed=2)])
    batch = run(image=image, seed=40, config={"num_candidates": 3})
    assert batch.seeds == (40, 41, 42, 43, 44, 45)
    # A call of several rows may round differently; a visible difference would be another image.
    for index in (1, 5):
        alone = run(image=image[index // 3][None], seed=batch.seeds[index])
        assert (alone.image[0] - batch.image[index]).abs().max() < 1e-3
    assert (batch.image[0] - batch.image[1]).abs().max() > 1e-2


def test_one_mask_for_many_images_and_the_reverse() -> None:
    images = torch.cat([random_image(seed=1), random_image(seed=2)])
    masks = torch.cat([square(64, 64, 8, 8, 16), square(64, 64, 32, 32, 20)])
    many_images = run(image=images, mask=masks[:1], seed=3)
    many_masks = run(image=images[:1], mask=masks, seed=3)
    batch = run(image=images, mask=masks, seed=3)
    assert len(many_images.image) == len(many_masks.image) == len(batch.image) == 2
    assert (many_images.image[0] - batch.image[0]).abs().max() < 1e-3
    assert torch.equal(many_masks.mask, batch.mask)


def test_a_image_with_an_empty_mask_in_a_batch_stays() -> None:
    images = torch.cat([random_image(seed=1), random_image(seed=2)])
    masks = torch.cat([torch.zeros(1, 64, 64), square(64, 64, 20, 20, 20)])
    result = run(image=images, mask=masks)
    assert torch.equal(result.image[0], images[0])
    assert not torch.equal(result.image[1], images[1])
    assert "image 1 has an empty mask and stays as it is" in result.notes


@pytest.mark.parametrize("side", [64, 16], ids=["of-the-image", "of-load-image"])
def test_images_without_anything_painted_stay_and_are_named(side: int) -> None:
    """LoadImage gives a small mask of zeros, whatever the size of the image."""
    images = torch.cat([random_image(seed=1), random_image(seed=2)])
    result = run(
        image=images,
        mask=torch.full((2, side, side), 0.01),
        config={"skip_empty_masks": True, "num_candidates": 2},
    )
    assert torch.equal(result.image, images.repeat_interleave(2, 0))
    assert not result.mask.any()
    assert "images 1, 2 have an empty mask and stay as they are" in result.notes


def test_runs_repeat_exactly_and_seeds_matter() -> None:
    assert torch.equal(run(seed=7).image, run(seed=7).image)
    assert not torch.equal(run(seed=7).image, run(seed=8).image)


def test_a_new_seed_encodes_nothing_again() -> None:
    run(seed=1)
    host = RecordingHost()
    run(seed=2, host=host)
    assert host.resident_names == [("transformer",), ("vae",)], "sampling and one decode only"


def test_text_encoders_are_never_beside_the_transformer() -> None:
    host = RecordingHost()
    run(prompt="a blue star", host=host)
    assert all(len(names) == 1 for names in host.resident_names)
    assert host.resident_names.index(("text_encoder_2",)) < host.resident_names.index(
        ("transformer",)
    )


def test_stitch_mask_decides_what_is_pasted() -> None:
    image, stitch = random_image(), square(64, 64, 26, 26, 8)
    result = run(image=image, stitch_mask=stitch)
    assert torch.equal(result.mask, stitch)
    assert torch.equal(result.image[stitch == 0], image[stitch == 0])
    assert not torch.equal(result.image[stitch == 1], image[stitch == 1])


def test_context_mask_changes_the_crop_and_not_the_pasted_area() -> None:
    image = random_image(256, 256)
    mask = square(256, 256, 10, 10, 24)
    near = run(image=image, mask=mask)
    far = run(image=image, mask=mask, context_mask=square(256, 256, 200, 200, 30))
    assert torch.equal(near.mask, far.mask)
    assert not torch.equal(near.image, far.image)


def test_a_faint_context_mask_counts_and_haze_in_it_does_not() -> None:
    image, mask = random_image(256, 256), square(256, 256, 10, 10, 24)
    context = square(256, 256, 200, 200, 30)
    config = FillConfig(steps=2)
    settings = resolve_settings(config, bundled_models().recipe)
    boxes = []
    for context_mask in (context, context * 0.3, context.clamp_min(0.05)):
        request = FillRequest(
            task=Task.REMOVE, image=image, mask=mask, context_mask=context_mask, config=config
        )
        (job,) = make_jobs(request, bundled_models(), settings)
        assert job is not None
        boxes.append(job.box)
    assert boxes[0].right >= 230
    assert boxes[1:] == boxes[:1] * 2


def test_soft_borders_of_the_user_survive() -> None:
    mask = square(64, 64, 20, 20, 24)
    mask[:, 18:20, 20:44] = 0.4
    mask[:, 0:4, 0:4] = 0.01
    result = run(mask=mask, config={"grow": 0, "feather": 0})
    assert (result.mask[:, 18:20, 20:44] == 0.4).all()
    assert (result.mask[:, 0:4, 0:4] == 0).all(), "traces near 0 are no mask"


def test_departures_from_the_recipe_are_told() -> None:
    host = RecordingHost()
    recipe = bundled_models().recipe
    result = run(host=host, config={"guidance": recipe.guidance + 1})
    expected = f"guidance {recipe.guidance + 1!r} instead of {recipe.guidance!r}"
    assert any(expected in line for line in host.lines)
    assert result.notes == tuple(host.lines)


@pytest.mark.parametrize("mode", ["batched", "sequential"])
def test_progress_preview_and_cancel_reach_the_host_at_every_model_call(mode: str) -> None:
    host = RecordingHost()
    run(host=host, config={"true_cfg": 3.0, "cfg_mode": mode, "steps": 3})
    calls = 3 if mode == "batched" else 6
    assert host.steps[-1] == (calls, calls)
    assert {step for step, _ in host.steps} == set(range(calls + 1))
    assert len(host.previews) == 3
    for preview in host.previews:
        assert preview.ndim == 3
        assert preview.shape[-1] == 3
        assert 0 <= preview.min() <= preview.max() <= 1


def test_cancel_stops_before_the_next_model_call() -> None:
    host = RecordingHost(cancel_at_call=3)
    with pytest.raises(CancelledError):
        run(host=host, config={"steps": 50})
    assert host.calls == 3


def test_unknown_characters_are_refused_before_sampling() -> None:
    host = RecordingHost()
    with pytest.raises(ValueError, match="'☃'"):
        run(Task.TEXT, text="A☃", host=host)
    assert host.resident_names == []


class ShortHost(RecordingHost):
    """Fails like a full GPU as long as the transformer gets more than ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.failures = 0

    def resident(self, *components: Any, activation_bytes: int) -> Any:
        if components[0].name == "transformer" and activation_bytes > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError("out of memory")
        return super().resident(*components, activation_bytes=activation_bytes)


def test_out_of_memory_is_retried_once_leaner() -> None:
    config = {"num_candidates": 4, "true_cfg": 2.0}
    roomy = run(config=config)
    one_row = _bytes_of_one_row()
    host = ShortHost(limit=one_row)
    result = run(host=host, config=config)
    assert host.failures == 1
    assert any("out of memory" in line for line in host.lines)
    assert (result.image - roomy.image).abs().max() < 1e-3


def test_out_of_memory_says_what_to_change() -> None:
    with pytest.raises(NotEnoughMemory, match="lower target_size"):
        run(host=ShortHost(limit=0))


def test_little_free_memory_means_one_prompt_at_a_time() -> None:
    host = RecordingHost(free=_bytes_of_one_row())
    run(host=host, config={"true_cfg": 2.0, "steps": 2})
    assert host.steps[-1][1] == 4


def _bytes_of_one_row() -> int:
    from onereward.fill.memory.plan import sample_bytes

    models = bundled_models()
    return sample_bytes(models, 1, (64 // models.multiple) ** 2)


def test_extend_overlap_and_correction_soften_the_old_border() -> None:
    """Largest mean step across the old border, against pasting hard where the source ends."""
    image = random_image(batch=4)

    def seam(**config: Any) -> float:
        result = run(
            Task.EXTEND, image=image, extension=Extension(right=16), config={"steps": 8, **config}
        )
        step = (result.image[:, :, 1:] - result.image[:, :, :-1]).abs().mean(dim=(0, 1, 3))
        return float(step[57:67].max())

    hard = seam(grow=0, feather=0, colour_correction=0.0)
    assert seam() < 0.8 * hard
    assert seam(grow=6, feather=5) < 0.75 * hard


@pytest.mark.parametrize(
    ("component", "parameter", "stage"),
    [
        ("transformer", "proj_out.bias", "sampling"),
        ("vae", "decoder.conv_out.bias", "decoding"),
        ("vae", "encoder.conv_out.bias", "encoding the image"),
        ("text_encoder_2", "encoder.final_layer_norm.weight", "encoding the prompt"),
    ],
)
def test_values_that_are_no_numbers_stop_at_their_stage(
    component: str, parameter: str, stage: str
) -> None:
    folder = machine.ROOT / "assets" / "fill"
    config = ModelConfig(folder=str(folder), precision="fp32")
    models = load_fill_models(config, torch.device("cpu"))
    weights = dict(getattr(models, component).module.named_parameters())
    weights[parameter].data.fill_(torch.nan)
    request = FillRequest(
        task=Task.FILL,
        image=random_image(),
        mask=square(64, 64, 20, 20, 24),
        prompt="a red circle",
        config=FillConfig(steps=1),
    )
    with pytest.raises(ArithmeticError, match=f"^{stage} gave values that are no finite numbers"):
        run_fill(request, models, RecordingHost())
