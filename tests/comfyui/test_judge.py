"""The judge nodes in the real server, on a small judge with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.client import ComfyClient, Graph
from support.graph import GraphBuilder, Link, output
from support.judges import make_judge
from support.refusals import refused
from support.server import ComfyServer

NAME = "small-judge"


@pytest.fixture(scope="module")
def judge_folder(comfyui: ComfyServer) -> Iterator[Path]:
    folder = comfyui.base_directory / "models" / "onereward" / NAME
    folder.mkdir(parents=True)
    yield make_judge(folder)
    shutil.rmtree(folder)


def upload_image(client: ComfyClient, colour: str, size: tuple[int, int] = (64, 64)) -> str:
    return client.upload(Image.new("RGB", size, colour), f"{colour}-{size[0]}.png")


def score(client: ComfyClient, uploads: list[str], node: str, **inputs: Any) -> tuple[Any, str]:
    """Run a judge node on uploaded images; return the job and the id of its report's preview."""
    graph, preview = judging(uploads, node, **inputs)
    return client.run(graph), preview


def judging(uploads: list[str], node: str, **inputs: Any) -> tuple[Graph, str]:
    """Return the graph of a judge node on uploaded images, and the id of its report's preview."""
    g = GraphBuilder()
    judge = g.add("OneRewardLoadJudge", judge=NAME)
    images = [g.add("LoadImage", image=name) for name in uploads]
    if node == "OneRewardScore":
        links: dict[str, Link] = {"image_a": images[0], "image_b": images[1]}
    else:
        batch = images[0]
        for image in images[1:]:
            batch = g.add("ImageBatch", image1=batch, image2=image)
        links = {"candidates": batch}
    values = {"task": "fill", "prompt": "a red circle"} | inputs
    result = g.add(node, judge=judge, **links, **values)
    table, report = (1, 2) if node == "OneRewardScore" else (2, 3)
    g.add("PreviewImage", images=output(result, table))
    preview = g.add("PreviewAny", source=output(result, report))
    return g.graph, preview[0]


def report_of(job: Any, node: str) -> Any:
    assert job.succeeded, job.error
    return json.loads(job.outputs[node]["text"][0])


def test_scores_per_dimension_and_their_swap(client: ComfyClient, judge_folder: Path):
    names = [upload_image(client, "red"), upload_image(client, "blue")]
    (forth,) = report_of(*score(client, names, "OneRewardScore"))
    (back,) = report_of(*score(client, names[::-1], "OneRewardScore"))
    assert set(forth) == {"text_alignment", "consistency", "structure", "aesthetics"}
    assert all(abs(forth[d] + back[d] - 1) < 1e-5 for d in forth)


def test_a_pair_of_identical_images_scores_one_half(client: ComfyClient, judge_folder: Path):
    name = upload_image(client, "green")
    job = score(client, [name, name], "OneRewardScore", task="remove", prompt="")
    (scores,) = report_of(*job)
    assert scores == {"removal_quality": pytest.approx(0.5, abs=1e-6)}


def test_the_best_is_picked_and_every_candidate_ranked(client: ComfyClient, judge_folder: Path):
    names = [upload_image(client, c) for c in ("red", "blue", "green", "white")]
    for method, comparisons in (("knockout", 3), ("round_robin", 6)):
        ranking = report_of(*score(client, names, "OneRewardPickBest", method=method))
        assert sorted(ranking["order"]) == [0, 1, 2, 3]
        assert len(ranking["comparisons"]) == comparisons
        winner = ranking["order"][0]
        lost = [
            c
            for c in ranking["comparisons"]
            if winner in (c["first"], c["second"]) and (_mean(c) >= 0.5) != (c["first"] == winner)
        ]
        assert method == "round_robin" or not lost


def _mean(comparison: dict[str, float]) -> float:
    values = [v for k, v in comparison.items() if k not in ("first", "second")]
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("sizes", "inputs", "words"),
    [
        ([(64, 64), (64, 32)], {}, ["compare images of the same size"]),
        ([(64, 64), (64, 64)], {"task": "paint"}, ["task", "'paint'", "fill", "extend"]),
        ([(64, 64), (64, 64)], {"view": "crop"}, ["needs a mask"]),
    ],
    ids=["sizes", "task", "view"],
)
def test_bad_input_gets_one_sentence(
    client: ComfyClient,
    judge_folder: Path,
    sizes: list[tuple[int, int]],
    inputs: dict[str, Any],
    words: list[str],
):
    names = [
        upload_image(client, colour, size)
        for colour, size in zip(("red", "blue"), sizes, strict=True)
    ]
    refused(client, judging(names, "OneRewardScore", **inputs)[0], *words)


def test_a_missing_judge_says_where_to_put_one(client: ComfyClient):
    g = GraphBuilder()
    judge = g.add("OneRewardLoadJudge", judge="none")
    image = g.add("LoadImage", image=upload_image(client, "red"))
    values = {"image_a": image, "image_b": image, "task": "remove", "prompt": ""}
    g.add("PreviewImage", images=output(g.add("OneRewardScore", judge=judge, **values), 1))
    refused(client, g.graph, "judge", "none")


def test_a_folder_that_is_no_judge_is_named(client: ComfyClient, comfyui: ComfyServer):
    folder = comfyui.base_directory / "models" / "onereward" / "llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "preprocessor_config.json").write_text("{}")
    g = GraphBuilder()
    g.add("PreviewAny", source=g.add("OneRewardLoadJudge", judge="llama"))
    refused(client, g.graph, "llama", "judge")


def test_metrics_stand_beside_the_judge(client: ComfyClient, judge_folder: Path, example: str):
    g = GraphBuilder()
    judge, image = g.add("OneRewardLoadJudge", judge=NAME), g.add("LoadImage", image=example)
    inverted = g.add("ImageInvert", image=image)
    values = {"task": "remove", "prompt": "", "mask": output(image, 1), "source": image}
    result = g.add("OneRewardScore", judge=judge, image_a=image, image_b=inverted, **values)
    preview = g.add("PreviewAny", source=output(result, 3))
    metrics = report_of(client.run(g.graph), preview[0])
    assert metrics["image_a"]["outside_difference"] == [0.0]
    assert metrics["image_b"]["outside_difference"][0] > 0.3
    assert set(metrics["image_a"]) == {"seam_step", "outside_difference"}
