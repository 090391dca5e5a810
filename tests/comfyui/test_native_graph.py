"""The native graph in a real server: a KSampler at our recipe makes what our sampler makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.client import ComfyClient, ComfyJob
from support.edits import TASK_INPUTS, EditGraph
from support.graph import Link, nodes_of, output

SEED = 11
EXTENSION = {side: TASK_INPUTS["Extend"][side] for side in ("left", "top", "right", "bottom")}
NATIVE: dict[str, dict[str, Any]] = {
    "Fill": {"task": "fill", "prompt": "a red circle"},
    "Extend": {"task": "extend", "prompt": "", **EXTENSION},
    "Remove": {"task": "remove", "prompt": ""},
    "Text": {"task": "text", "prompt": "", "text": "AB"},
}
# Of 255. Both sample in fp32, but the arithmetic of attention and text states is not in one order.
MAX_DIFFERENCE, MEAN_DIFFERENCE = 4, 0.05


def add_native(g: EditGraph, model: Link, image: Link, **inputs: Any) -> Link:
    """Add the whole native graph behind a loaded model; return the stitched image."""
    native = g.add("OneRewardToNative", fill_model=model)
    if inputs["task"] != "extend":
        inputs["mask"] = output(image, 1)
    edit = g.add(
        "OneRewardNativeInputs",
        clip=output(native, 1),
        vae=output(native, 2),
        image=image,
        model=native,
        recipe="bundled",
        **inputs,
    )
    latent = g.add(
        "KSampler",
        model=output(edit, 4),
        positive=edit,
        negative=output(edit, 1),
        latent_image=output(edit, 2),
        steps=output(edit, 5),
        cfg=output(edit, 6),
        seed=SEED,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    decoded = g.add("VAEDecode", samples=latent, vae=output(native, 2))
    return g.add("OneRewardStitch", image=decoded, stitch=output(edit, 3))


def pixels(client: ComfyClient, job: ComfyJob, node: str) -> np.ndarray:
    assert job.succeeded, job.error
    (image,) = job.images(node)
    return np.asarray(client.image(image).convert("RGB")).astype(int)


@pytest.mark.parametrize("task", NATIVE)
def test_a_ksampler_makes_what_our_sampler_makes(task: str, client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    plain = g.show(g.add_edit(task, image, seed=SEED, settings={"steps": -1}))
    native = g.show(add_native(g, g.add_model(), image, **NATIVE[task]))
    job = client.run(g.graph)
    expected, result = pixels(client, job, plain), pixels(client, job, native)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= MAX_DIFFERENCE
    assert np.abs(result - expected).mean() <= MEAN_DIFFERENCE


def test_adapters_go_along(client: ComfyClient, example: str, adapter: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    model = g.add("OneRewardLoadAdapter", model=g.add_model(), adapter=adapter, strength=0.02)
    adapted = g.show(g.add_edit("Fill", image, model=model, seed=SEED, settings={"steps": -1}))
    native = g.show(add_native(g, model, image, **NATIVE["Fill"]))
    plain = g.show(add_native(g, g.add_model(), image, **NATIVE["Fill"]))
    job = client.run(g.graph)
    expected, result = pixels(client, job, adapted), pixels(client, job, native)
    assert np.abs(result - expected).max() <= MAX_DIFFERENCE
    assert np.abs(result - pixels(client, job, plain)).max() > 3 * MAX_DIFFERENCE


@pytest.mark.parametrize("task", NATIVE)
def test_our_sampler_runs_on_comfyuis_own_model(task: str, client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    native = g.add("OneRewardToNative", fill_model=g.add_model())
    back = add_back(g, native, native)
    plain = g.show(g.add_edit(task, image, seed=SEED, settings={"steps": -1}))
    converted = g.show(g.add_edit(task, image, model=back, seed=SEED, settings={"steps": -1}))
    job = client.run(g.graph)
    expected, result = pixels(client, job, plain), pixels(client, job, converted)
    assert np.abs(result - expected).max() <= MAX_DIFFERENCE
    assert np.abs(result - expected).mean() <= MEAN_DIFFERENCE


def add_back(g: EditGraph, native: Link, model: Link) -> Link:
    """Make ComfyUI's CLIP, VAE and MODEL ours."""
    return g.add(
        "OneRewardFromNative",
        model=model,
        clip=output(native, 1),
        vae=output(native, 2),
        recipe="bundled",
    )


def test_loras_of_a_native_model_work_in_our_sampler(
    client: ComfyClient, example: str, adapter: str
):
    """Attached before by ComfyUI's loader, or after by ours: the same as on our model."""
    strength, edit = 0.02, {"seed": SEED, "settings": {"steps": -1}}
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    loaded = g.add_model()
    native = g.add("OneRewardToNative", fill_model=loaded)
    before = g.add("LoraLoaderModelOnly", model=native, lora_name=adapter, strength_model=strength)
    values = {"adapter": adapter, "strength": strength}
    previews = [
        g.show(g.add_edit("Fill", image, model=model, **edit))
        for model in (
            g.add("OneRewardLoadAdapter", model=loaded, **values),
            add_back(g, native, before),
            g.add("OneRewardLoadAdapter", model=add_back(g, native, native), **values),
            add_back(g, native, native),
        )
    ]
    job = client.run(g.graph)
    expected, first, second, plain = (pixels(client, job, node) for node in previews)
    assert np.abs(expected - first).max() <= MAX_DIFFERENCE
    assert np.abs(expected - second).max() <= MAX_DIFFERENCE
    assert np.abs(expected - plain).max() > 3 * MAX_DIFFERENCE, "nothing is left on a shared model"


@pytest.mark.parametrize(
    ("node", "values"),
    [
        (
            "EasyCache",
            {"reuse_threshold": 0.3, "start_percent": 0.1, "end_percent": 0.95, "verbose": False},
        ),
        ("RescaleCFG", {"multiplier": 1.0}),
        ("CFGZeroStar", {}),
        ("ModelSamplingFlux", {"max_shift": 3.0, "base_shift": 2.0, "width": 64, "height": 64}),
        ("ModelSamplingSD3", {"shift": 5.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_works_on_a_whole_sampler_works_as_in_comfyuis_own(
    node: str, values: dict[str, Any], client: ComfyClient, example: str
):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    native = g.add("OneRewardToNative", fill_model=g.add_model())
    settings = {"steps": -1, "true_cfg": 8.0}
    config = g.add("OneRewardSettings", **settings)
    direct = g.show(add_native(g, g.add_model(), image, settings=config, **NATIVE["Fill"]))
    # The node behind the MODEL of the KSampler, and the same MODEL in our edit.
    (sampler,) = nodes_of(g.graph, "KSampler")
    inputs = g.graph[sampler]["inputs"]
    inputs["model"] = patched = g.add(node, model=inputs["model"], **values)
    back = add_back(g, native, patched)
    edits = [
        g.show(g.add_edit("Fill", image, model=model, seed=SEED, settings=settings))
        for model in (back, add_back(g, native, native))
    ]
    job = client.run(g.graph)
    expected = pixels(client, job, direct)
    patched_edit, plain = (pixels(client, job, edit) for edit in edits)
    assert np.abs(patched_edit - expected).max() <= 1, "but for rounding"
    assert np.abs(plain - expected).max() > 3 * MAX_DIFFERENCE
    texts = [e.data for e in job.events if e.kind == "onereward.text"]
    notes = [data["text"] for data in texts if data["node"] == back[0]]
    assert "ComfyUI's own Euler sampler heeds" in str(notes)


def test_a_native_model_goes_back_as_it_came(client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    native = g.add("OneRewardToNative", fill_model=g.add_model())
    direct = g.show(add_native(g, g.add_model(), image, **NATIVE["Fill"]))
    back = g.show(add_native(g, add_back(g, native, native), image, **NATIVE["Fill"]))
    job = client.run(g.graph)
    assert np.array_equal(pixels(client, job, direct), pixels(client, job, back))


def test_a_clip_of_another_kind_makes_no_model_of_ours(client: ComfyClient, example: str):
    g = EditGraph()
    native = g.add("OneRewardToNative", fill_model=g.add_model())
    model = g.add(
        "OneRewardFromNative",
        model=native,
        clip=g.add("TestClipOfAnotherKind"),
        vae=output(native, 2),
        recipe="bundled",
    )
    g.show(g.add_edit("Fill", g.add("LoadImage", image=example), model=model))
    assert "FLUX needs CLIP-L and T5" in (client.run(g.graph).error or "")


def test_candidates_are_one_batch_as_the_judge_takes_it(client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    two = g.add("OneRewardSettings", num_candidates=2)
    batch = add_native(g, g.add_model(), image, settings=two, **NATIVE["Fill"])
    candidates = g.show(batch)
    single = g.show(g.add_edit("Fill", image, seed=SEED, settings={"steps": -1}))
    job = client.run(g.graph)
    expected = pixels(client, job, single)
    first, second = (
        np.asarray(client.image(reference).convert("RGB")).astype(int)
        for reference in job.images(candidates)
    )
    assert np.abs(first - expected).max() <= MAX_DIFFERENCE
    assert np.abs(second - expected).max() > MAX_DIFFERENCE
    untouched = (expected == first).all(-1) & (first == second).all(-1)
    assert untouched.mean() > 0.25, "outside the mask all are the source"


def test_a_clip_of_another_kind_is_refused(client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    native = g.add("OneRewardToNative", fill_model=g.add_model())
    edit = g.add(
        "OneRewardNativeInputs",
        clip=g.add("TestClipOfAnotherKind"),
        vae=output(native, 2),
        image=image,
        mask=output(image, 1),
        task="fill",
        prompt="a red circle",
        recipe="bundled",
    )
    g.show(g.add("VAEDecode", samples=output(edit, 2), vae=output(native, 2)))
    job = client.run(g.graph)
    assert "FLUX needs CLIP-L and T5" in (job.error or "")


def test_another_edits_image_is_not_stitched(client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    native = g.add("OneRewardToNative", fill_model=g.add_model())
    edit = g.add(
        "OneRewardNativeInputs",
        clip=output(native, 1),
        vae=output(native, 2),
        image=image,
        mask=output(image, 1),
        task="fill",
        prompt="a red circle",
        recipe="bundled",
    )
    small = g.add("ImageScaleBy", image=image, upscale_method="bilinear", scale_by=0.5)
    g.show(g.add("OneRewardStitch", image=small, stitch=output(edit, 3)))
    job = client.run(g.graph)
    assert "connect the decoded latent of the same edit" in (job.error or "")
