"""The four edits and the shipped workflows in a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.client import ApiError, ComfyClient, ComfyJob
from support.edits import TASK_INPUTS, EditGraph
from support.graph import Link, load_graph, nodes_of, output
from support.server import ComfyServer
from support.workflows import (
    API_FOLDER,
    CORE_MODEL_LOADERS,
    DEMO,
    HOLE,
    NEWER_NODES,
    SIZE,
    SLOW,
    api_workflows,
    example_image,
    missing_nodes,
    runs_here,
)

SOURCE = np.asarray(example_image().convert("RGB"))
BUNDLED_SCENES = 3
"""Pictures with a mask in the folder of the shipped workflow."""
TASKS = list(TASK_INPUTS)


def pixels(client: ComfyClient, job: ComfyJob, node: str) -> list[np.ndarray]:
    assert job.succeeded, job.error
    return [np.asarray(client.image(p).convert("RGB")) for p in job.images(node)]


@pytest.mark.parametrize(
    "path", list(filter(runs_here, api_workflows())), ids=lambda path: path.stem
)
def test_shipped_workflow_runs(path: Path, client: ComfyClient):
    graph = load_graph(path)
    job = client.run(graph)
    assert job.succeeded, job.error
    saved = nodes_of(graph, "SaveImage")
    # What judges or trains shows its images and keeps its files in folders of its own.
    assert saved or any(job.images(node) for node in graph)
    for node in saved:
        edit = graph[graph[node]["inputs"]["images"][0]]
        width, height = map(int, edit["inputs"].get("aspect", "1:1").split(":"))
        references = job.images(node)
        assert len(references) == (BUNDLED_SCENES if nodes_of(graph, "OneRewardLoadFolder") else 1)
        for reference in references:
            size = client.image(reference).size
            assert size == (pytest.approx(SIZE * width / height, abs=1), SIZE)
            assert reference["subfolder"].split("/")[0] == "onereward"


def test_shipped_workflow_picks_the_best_with_any_judge(client: ComfyClient):
    graph = load_graph(API_FOLDER / f"{SLOW}.json")
    (settings,), (best,) = (nodes_of(graph, f"OneReward{n}") for n in ("Settings", "PickBest"))
    graph[settings]["inputs"] |= {"steps": 1, "num_candidates": 2, "target_size": 64}
    job = client.run(graph)
    (ranked,) = (n for n in graph if graph[n]["inputs"].get("images") == [best, 1])
    assert len(pixels(client, job, ranked)) == 2
    assert len(pixels(client, job, nodes_of(graph, "SaveImage")[0])) == 1


@pytest.mark.parametrize(("aspect", "size"), [("5:4", (80, 64)), ("2.39:1", (153, 64))])
def test_any_aspect_is_taken_over_the_api(
    aspect: str, size: tuple[int, int], client: ComfyClient, example: str
):
    g = EditGraph()
    preview = g.show(g.add_edit("Extend", g.add("LoadImage", image=example), aspect=aspect))
    (result,) = pixels(client, client.run(g.graph), preview)
    assert (result.shape[1], result.shape[0]) == size


def test_the_notes_of_an_edit_are_in_the_history(client: ComfyClient, example: str):
    g = EditGraph()
    edit = g.add_edit("Fill", g.add("LoadImage", image=example), settings={"steps": 1})
    g.show(edit)
    job = client.run(g.graph)
    lines = [e.data for e in job.events if e.kind == "onereward.text" and e.data["node"] == edit[0]]
    notes = job.outputs[edit[0]]["text"]
    assert notes == (lines[-1]["text"] if lines else [])
    assert notes == job.outputs[edit[0]]["onereward"][0]["notes"]


@pytest.mark.parametrize(
    "path",
    [path for path in api_workflows() if not path.stem.startswith(DEMO) and runs_here(path)],
    ids=lambda path: path.stem,
)
def test_workflow_for_photographs_paints_inside_the_mask_only(path: Path, client: ComfyClient):
    graph = load_graph(path)
    (edit,) = (node for kind in TASKS for node in nodes_of(graph, f"OneReward{kind}"))
    g = EditGraph()
    g.graph |= graph
    mask = show_mask(g, [edit, 0])
    job = client.run(g.graph)
    (result,) = pixels(client, job, nodes_of(graph, "SaveImage")[0])
    (painted,) = (mask[..., 0] > 0 for mask in pixels(client, job, mask))
    left = (result.shape[1] - SIZE) // 2
    inside = result[:, left : left + SIZE]
    untouched = ~painted[:, left : left + SIZE]
    assert (inside[untouched] == SOURCE[untouched]).all()
    assert (inside != SOURCE).any() or result.shape != SOURCE.shape


def test_words_choose_what_is_removed_in_a_folder(comfyui: ComfyServer, client: ComfyClient):
    """The rest of the workflow; tests have no weights for the node that finds things."""
    folder = comfyui.base_directory / "input" / "words"
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        example_image().rotate(90 * (name == "b")).save(folder / f"{name}.png")
    nothing_found = Image.linear_gradient("L").resize((SIZE + 8, SIZE)).convert("RGB")
    nothing_found.save(folder / "c.png")
    nothing_found.save(folder / "d.gif")
    graph = load_graph(API_FOLDER / "remove_by_words_in_a_folder.json")
    (load,) = nodes_of(graph, "OneRewardLoadFolder")
    (grow,) = nodes_of(graph, "GrowMask")
    (detector,) = nodes_of(graph, "SAM3_Detect")
    assert graph[grow]["inputs"]["mask"] == [detector, 0]
    assert graph[detector]["inputs"]["image"] == [load, 0]
    graph[load]["inputs"]["folder"] = "words"
    graph[grow]["inputs"]["mask"] = [load, 1]
    for kind in (*NEWER_NODES, "CLIPTextEncode", *CORE_MODEL_LOADERS):
        for node in nodes_of(graph, kind):
            del graph[node]
    job = client.run(graph)
    assert job.succeeded, job.error
    (saved,) = nodes_of(graph, "SaveImage")
    names = [reference["filename"].split("_")[0] for reference in job.images(saved)]
    assert names == ["a", "b", "c"]
    assert np.array_equal(pixels(client, job, saved)[2], np.asarray(nothing_found))
    notes = job.outputs[load]["text"]
    assert any(note.startswith("left out: d.gif (save it as PNG") for note in notes)
    (edit,) = nodes_of(graph, "OneRewardRemove")
    assert "image 3 has an empty mask and stays as it is" in job.outputs[edit]["text"]


def test_finding_things_by_words_needs_only_its_weights(client: ComfyClient):
    path = API_FOLDER / "remove_by_words_in_a_folder.json"
    if missing_nodes(path, client.get("/object_info")):
        pytest.skip("this ComfyUI has no SAM 3")
    with pytest.raises(ApiError) as refused:
        client.run(load_graph(path))
    _, problem = refused.value.messages()
    assert "ckpt_name" in problem


def add_source(g: EditGraph, client: ComfyClient, image: Image.Image) -> Link:
    return g.add("LoadImage", image=client.upload(image, "source.png"))


def show_mask(g: EditGraph, edit: Link) -> str:
    return g.show(g.add("MaskToImage", mask=output(edit, 1)))


@pytest.mark.parametrize("task", ["Fill", "Remove", "Text"])
def test_nothing_changes_where_the_result_mask_is_0(task: str, client: ComfyClient, example: str):
    g = EditGraph()
    edit = g.add_edit(task, g.add("LoadImage", image=example))
    result, mask = g.show(edit), show_mask(g, edit)
    job = client.run(g.graph)
    (new,), (alpha,) = pixels(client, job, result), pixels(client, job, mask)
    left, top, right, bottom = HOLE
    assert alpha[top:bottom, left:right].min() == 255
    assert (alpha == 0).mean() > 0.5
    assert np.array_equal(new[alpha == 0], SOURCE[alpha == 0])
    assert not np.array_equal(new, SOURCE)


def test_extend_keeps_the_source_inside(client: ComfyClient, example: str):
    g = EditGraph()
    edit = g.add_edit("Extend", g.add("LoadImage", image=example), left=16, right=8, top=24)
    result, mask = g.show(edit), show_mask(g, edit)
    job = client.run(g.graph)
    (new,), (alpha,) = pixels(client, job, result), pixels(client, job, mask)
    assert new.shape == alpha.shape == (SIZE + 24, SIZE + 24, 3)
    inside = np.s_[24:, 16 : 16 + SIZE]
    unchanged = alpha[inside] == 0
    assert unchanged.mean() > 0.5
    assert np.array_equal(new[inside][unchanged], SOURCE[unchanged])
    assert alpha[:24].min() == alpha[:, :16].min() == alpha[:, -8:].min() == 255


def test_masks_of_extend_have_the_sources_size(client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    edit = g.add_edit(
        "Extend", image, stitch_mask=output(image, 1), context_mask=g.add_mask(), bottom=16
    )
    mask = show_mask(g, edit)
    (alpha,) = pixels(client, client.run(g.graph), mask)
    left, top, right, bottom = HOLE
    inside = alpha[:SIZE, 16 : 16 + SIZE]
    assert inside[top:bottom, left:right].min() == 255
    assert inside[:top].max() == inside[bottom:].max() == 0
    assert alpha[SIZE:].min() == 255


@pytest.mark.parametrize(
    ("images", "masks", "candidates"),
    [(2, 2, 1), (2, 1, 1), (1, 2, 1), (2, 1, 2)],
    ids=["pairs", "one mask", "one image", "candidates"],
)
def test_batches(images: int, masks: int, candidates: int, client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    mask = g.add("MaskToImage", mask=output(image, 1))
    mask = g.add("RepeatImageBatch", image=mask, amount=masks)
    edit = g.add_edit(
        "Fill",
        g.add("RepeatImageBatch", image=image, amount=images),
        g.add("ImageToMask", image=mask, channel="red"),
        settings={"num_candidates": candidates},
        seed=5,
    )
    result = g.show(edit)
    job = client.run(g.graph)
    new = pixels(client, job, result)
    total = max(images, masks) * candidates
    assert len(new) == total
    assert job.outputs[edit[0]]["onereward"][0]["seeds"] == list(range(5, 5 + total))
    assert not np.array_equal(new[0], new[1])


def test_a_candidate_can_be_made_alone(client: ComfyClient, example: str):
    def run(seed: int, candidates: int) -> list[np.ndarray]:
        g = EditGraph()
        image = g.add("LoadImage", image=example)
        settings = {"num_candidates": candidates}
        result = g.show(g.add_edit("Fill", image, settings=settings, seed=seed))
        return pixels(client, client.run(g.graph), result)

    alone, together = run(12, 1)[0], run(11, 2)[1]
    # One level: summation order depends on how many rows go through the model together.
    assert np.abs(alone.astype(int) - together).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L", "P"])
@pytest.mark.parametrize("task", ["Extend"])
def test_every_kind_of_file_can_be_edited(task: str, mode: str, client: ComfyClient):
    g = EditGraph()
    image = example_image().convert(mode)
    result = g.show(g.add_edit(task, add_source(g, client, image)))
    (new,) = pixels(client, client.run(g.graph), result)
    assert new.shape == (SIZE, SIZE + 24, 3)


@pytest.mark.parametrize("size", [(16, 16), (50, 37), (200, 130)], ids=str)
def test_the_result_has_the_sources_size(size: tuple[int, int], client: ComfyClient):
    g = EditGraph()
    image = example_image().resize(size)
    result = g.show(g.add_edit("Fill", add_source(g, client, image)))
    (new,) = pixels(client, client.run(g.graph), result)
    assert new.shape == (size[1], size[0], 3)


def test_stitch_mask_decides_what_is_pasted(client: ComfyClient, example: str):
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    strip = np.zeros((SIZE, SIZE), np.uint8)
    strip[HOLE[1] : HOLE[3], HOLE[0] : HOLE[0] + 8] = 255
    stitch = g.add(
        "ImageToMask", image=add_source(g, client, Image.fromarray(strip)), channel="red"
    )
    edit = g.add_edit("Fill", image, stitch_mask=stitch, context_mask=g.add_mask())
    result, mask = g.show(edit), show_mask(g, edit)
    job = client.run(g.graph)
    (new,), (alpha,) = pixels(client, job, result), pixels(client, job, mask)
    assert np.array_equal(alpha[..., 0], strip)
    assert np.array_equal(new[strip == 0], SOURCE[strip == 0])


def test_deviations_from_the_recipe_are_shown_and_logged(
    client: ComfyClient, comfyui: ComfyServer, example: str
):
    g = EditGraph()
    edit = g.add_edit("Fill", g.add("LoadImage", image=example), settings={"true_cfg": 2.5})
    g.show(edit)
    job = client.run(g.graph)
    assert job.succeeded, job.error
    (note,) = job.outputs[edit[0]]["onereward"][0]["notes"]
    assert "true_cfg 2.5 instead of" in note
    assert note in comfyui.log()
    texts = [e.data["text"] for e in job.events if e.kind == "onereward.text"]
    assert any(note in text for text in texts)


def test_progress_counts_model_calls(client: ComfyClient, example: str):
    g = EditGraph()
    edit = g.add_edit(
        "Fill", g.add("LoadImage", image=example), settings={"steps": 3, "true_cfg": 2.0}, seed=9
    )
    g.show(edit)
    job = client.run(g.graph)
    steps = [e.data for e in job.events if e.kind == "progress" and e.data["node"] == edit[0]]
    values = [s["value"] for s in steps]
    # On a quick model messages in between are left out; slow steps all show.
    assert values == sorted(set(values))
    assert (values[0], values[-1]) == (0, 3)
    assert {s["max"] for s in steps} == {3}


def test_progress_of_slow_steps_shows_on_the_way(client: ComfyClient, example: str):
    g = EditGraph()
    settings = {"steps": 60, "true_cfg": 2.0, "num_candidates": 4}
    edit = g.add_edit("Fill", g.add("LoadImage", image=example), settings=settings, seed=10)
    g.show(edit)
    job = client.run(g.graph)
    values = [
        e.data["value"] for e in job.events if e.kind == "progress" and e.data["node"] == edit[0]
    ]
    assert len(values) > 5
    assert values == sorted(set(values))
    assert values[-1] == 60
