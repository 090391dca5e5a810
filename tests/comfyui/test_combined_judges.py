"""Judges on a server, calibrated and combined, in the real ComfyUI.

The server is a stand-in, a process that answers with the bundled judge's own logits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onereward import cli
from onereward.reward.preference import PreferenceSet
from support.client import ComfyClient, Graph
from support.edits import TOY_PREFERENCES, EditGraph
from support.graph import Link, output
from support.judge_server import judge_server
from support.refusals import refused
from support.server import ComfyServer

QUICK = {"split": "test_and_dev", "min_pairs": 5}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with judge_server() as base_url:
        yield base_url


@pytest.fixture(scope="module")
def work(comfyui: ComfyServer) -> Path:
    return comfyui.base_directory / "output" / "onereward"


class Judging(EditGraph):
    """A graph with judges of all kinds."""

    def remote(self, address: str, model: str = "judge", **inputs: Any) -> Link:
        values = {"base_url": address, "model": model, "retries": 0, "timeout": 300.0}
        return self.add("OneRewardRemoteJudge", **values | inputs)

    def local(self) -> Link:
        return self.add("OneRewardLoadJudge", judge="bundled (tiny)")

    def calibrated(self, judge: Link, name: str, **inputs: Any) -> Link:
        data = self.add("OneRewardLoadPreferences", folder=TOY_PREFERENCES)
        values = {"judge": judge, "preferences": data, "name": name} | QUICK | inputs
        connected = {key: value for key, value in values.items() if value is not None}
        return self.add("OneRewardCalibrateJudge", **connected)

    def score(self, judge: Link, images: list[str], **inputs: Any) -> str:
        a, b = (self.add("LoadImage", image=name) for name in images)
        links = {"judge": judge, "image_a": a, "image_b": b}
        result = self.add("OneRewardScore", **links, **{"task": "remove", "prompt": ""} | inputs)
        return self.add("PreviewAny", source=output(result, 2))[0]


@pytest.fixture
def images(client: ComfyClient) -> list[str]:
    draw = np.random.default_rng(0)
    names = []
    for index in range(2):
        pixels = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        pixels[20:40, 20:40] = 60 * index
        names.append(client.upload(Image.fromarray(pixels), f"combined-{index}.png"))
    return names


def scores(client: ComfyClient, graph: Graph, preview: str) -> dict[str, float]:
    job = client.run(graph)
    assert job.succeeded, job.error
    (values,) = json.loads(job.outputs[preview]["text"][0])
    return values


def score_of(client: ComfyClient, make: Any, images: list[str], **inputs: Any) -> dict[str, float]:
    g = Judging()
    preview = g.score(make(g), images, **inputs)
    return scores(client, g.graph, preview)


FILL = {"task": "fill", "prompt": "a red kite"}


def test_remote_judge_scores_as_the_same_judge_here(
    client: ComfyClient, address: str, images: list[str]
):
    far = score_of(client, lambda g: g.remote(address), images, **FILL)
    near = score_of(client, lambda g: g.local(), images, **FILL)
    assert far == pytest.approx(near, abs=2e-3)
    assert len(far) == 4


def test_remote_judge_picks_and_labels(
    client: ComfyClient, address: str, images: list[str], work: Path
):
    g = Judging()
    a, b = (g.add("LoadImage", image=name) for name in images)
    batch = g.add("ImageBatch", image1=a, image2=b)
    values = {"task": "fill", "prompt": "a kite", "method": "win_rate", "save_as": "far"}
    best = g.add("OneRewardPickBest", judge=g.remote(address, "yes"), candidates=batch, **values)
    preview = g.add("PreviewAny", source=output(best, 3))[0]
    job = client.run(g.graph)
    assert job.succeeded, job.error
    # Whoever always says Yes prefers nobody once both orders are averaged.
    assert json.loads(job.outputs[preview]["text"][0])["scores"] == [0.5, 0.5]
    pairs = PreferenceSet(work / "preferences" / "far").pairs()
    assert {pair.judged_by for pair in pairs} <= {"judge:remote:yes"}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no-logprobs", "without log-probabilities"),
        ("fails", "is busy or fails (HTTP 500)"),
        ("html", "not as this API does"),
        ("neither", "neither Yes nor No"),
        ("", "no model is named"),
    ],
)
def test_server_that_cannot_judge_is_refused_where_it_is_chosen(
    client: ComfyClient, address: str, images: list[str], model: str, words: str
):
    g = Judging()
    g.score(g.remote(address, model), images)
    refused(client, g.graph, words)


def test_key_in_place_of_its_name_is_refused_and_not_repeated(
    client: ComfyClient, comfyui: ComfyServer, address: str, images: list[str]
):
    g = Judging()
    g.score(g.remote(address, key_variable="sk-not-a-name-of-anything"), images)
    refused(client, g.graph, "key_variable must be the name")
    assert "sk-not-a-name" not in comfyui.log_path.read_text("utf-8", "replace")


def test_cancel_ends_the_wait_for_a_server_that_hangs(
    client: ComfyClient, address: str, images: list[str]
):
    g = Judging()
    g.score(g.remote(address, "hangs"), images)
    with client.listen() as listener:
        prompt = client.queue(g.graph)
        listener.until(lambda e: e.kind == "executing" and e.data.get("node") is not None)
        start = time.monotonic()
        client.interrupt(prompt)
        job = listener.finish(prompt)
    assert job.was_interrupted
    assert time.monotonic() - start < 5  # seconds, of the 300 that the server has


def test_calibrated_judge_is_saved_loaded_and_refused_for_another(
    client: ComfyClient, images: list[str], work: Path, tmp_path: Path
):
    plain = score_of(client, lambda g: g.local(), images, swap=False)
    new = score_of(client, lambda g: output(g.calibrated(g.local(), "c1"), 3), images, swap=False)
    values = json.loads((work / "judge-reports" / "c1" / "calibration.json").read_text())
    p, t = plain["removal_quality"], values["temperature"]
    expected = 1 / (1 + ((1 - p) / p) ** (1 / t))
    assert new["removal_quality"] == pytest.approx(expected, abs=1e-4)
    assert new["removal_quality"] != pytest.approx(p, abs=1e-4)
    # Without preferences the saved one is used again; no question is asked.
    again = score_of(
        client,
        lambda g: output(g.calibrated(g.local(), "c1", preferences=None), 3),
        images,
        swap=False,
    )
    assert again == new
    # It belongs to this judge.
    g = Judging()
    second = g.add("OneRewardLoadJudge", judge="bundled (tiny)", max_pixels=28 * 28)
    g.score(output(g.calibrated(second, "c1", preferences=None), 3), images)
    refused(client, g.graph, "made of another judge")
    # The command makes the same.
    job = json.loads((work / "judge-reports" / "c1" / "calibrate.json").read_text())
    (tmp_path / "calibrate.json").write_text(
        json.dumps(job | {"report_folder": str(tmp_path / "again")})
    )
    assert cli.main(["calibrate", str(tmp_path / "calibrate.json")]) == 0
    repeated = json.loads((tmp_path / "again" / "calibration.json").read_text())
    assert repeated["temperature"] == pytest.approx(t, rel=1e-3)


@pytest.mark.parametrize("combine", ["mean", "worst"])
def test_ensemble_of_a_near_and_a_far_judge(
    client: ComfyClient, address: str, images: list[str], combine: str
):
    def ensemble(g: Judging) -> Link:
        judges = {"judge_1": g.local(), "judge_2": g.remote(address, "yes")}
        return g.add("OneRewardEnsembleJudges", **judges, combine=combine)

    near = score_of(client, lambda g: g.local(), images, swap=False)["removal_quality"]
    yes = score_of(client, lambda g: g.remote(address, "yes"), images, swap=False)
    far = yes["removal_quality"]
    combined = score_of(client, ensemble, images, swap=False)["removal_quality"]
    expected = (near + far) / 2 if combine == "mean" else min(near, far)
    assert combined == pytest.approx(expected, abs=1e-4)


def training(address: str, name: str, **judges: Any) -> Graph:
    g = Judging()
    links = {key: make(g) for key, make in judges.items()}
    settings = g.add(
        "OneRewardTrainSettings", sampling_steps=2, warmup_steps=0, eval_every=1, eval_conditions=1
    )
    values = {"steps": 1, "batch_size": 1, "rank": 2, "min_judge_accuracy": 0.0, "name": name}
    links |= {"model": g.add_model(), "dataset": g.add_dataset(), "settings": settings}
    g.show(output(g.add("OneRewardTrain", **links, **values), 1))
    return g.graph


def test_ensemble_trains_and_a_remote_judge_watches(
    client: ComfyClient, address: str, work: Path, capsys: pytest.CaptureFixture[str]
):
    def ensemble(g: Judging) -> Link:
        judges = {"judge_1": g.local(), "judge_2": output(g.calibrated(g.local(), "c2"), 3)}
        return g.add("OneRewardEnsembleJudges", **judges, combine="worst")

    graph = training(address, "both", judge=ensemble, eval_judge=lambda g: g.remote(address))
    job = client.run(graph)
    assert job.succeeded, job.error
    config = json.loads((work / "policies" / "both" / "config.json").read_text())
    assert [j["kind"] for j in config["judges"]] == ["ensemble"]
    assert config["eval_judge"]["kind"] == "remote"
    assert cli.main(["train", str(work / "policies" / "both" / "config.json"), "--check"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("kind", ["remote", "isotonic"])
def test_judge_without_a_gradient_is_refused_as_a_reward(
    client: ComfyClient, address: str, kind: str
):
    def isotonic(g: Judging) -> Link:
        return output(g.calibrated(g.local(), "c3", method="isotonic"), 3)

    make = isotonic if kind == "isotonic" else lambda g: g.remote(address, "yes")
    refused(client, training(address, f"no-{kind}", judge=make), "no gradient reaches the images")
