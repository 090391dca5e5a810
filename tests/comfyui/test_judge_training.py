"""Generate, label, train and report in the real server, and the same jobs from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward import cli
from onereward.fill.task import Dimension, Task
from onereward.reward.judge import BUNDLED_FOLDER
from onereward.reward.preference import CandidateGroup, Preference, PreferenceSet
from onereward.training.data.conditions import save_image
from onereward.training.jobs import GenerateJob
from support.client import ComfyClient, Event, Graph
from support.edits import TOY_PREFERENCES, TOY_TRAIN, EditGraph
from support.graph import GraphBuilder, Link, output
from support.judges import make_judge
from support.refusals import refused
from support.server import ComfyServer

JUDGE = "chain-judge"
QUICK = {"num_candidates": 2, "steps_min": 1, "steps_max": 2}
SHORT = {"steps": 3, "warmup_steps": 1, "batch_size": 2, "eval_every": 3}
NUM = 20
"""Conditions that candidates are made of, with some for every split."""


@pytest.fixture(scope="module", autouse=True)
def judge_folder(comfyui: ComfyServer) -> Iterator[Path]:
    folder = comfyui.base_directory / "models" / "onereward" / JUDGE
    folder.mkdir(parents=True)
    yield make_judge(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def work(comfyui: ComfyServer) -> Path:
    """Where results go."""
    return comfyui.base_directory / "output" / "onereward"


class Chain(EditGraph):
    """A graph from conditions to a report; every step is added when its method is called."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def generate(self, num: int = NUM, **inputs: Any) -> Link:
        links = {"model": self.add_model(), "dataset": self.add_dataset(TOY_TRAIN)}
        values = {"name": self.name, "max_conditions": num}
        return self.add("OneRewardGenerateCandidates", **links, **values | QUICK | inputs)

    def load_preferences(self, folder: str) -> Link:
        return self.add("OneRewardLoadPreferences", folder=folder)

    def label(self, data: Link, **inputs: Any) -> Link:
        values = {"labeller": "judge", "margin": 0.0, "judge": self.load_judge()} | inputs
        connected = {key: value for key, value in values.items() if value is not None}
        return self.add("OneRewardLabelPreferences", preferences=data, **connected)

    def load_judge(self, **inputs: Any) -> Link:
        return self.add("OneRewardLoadJudge", **{"judge": JUDGE} | inputs)

    def train(self, data: Link, **inputs: Any) -> Link:
        judge = self.load_judge()
        values = {"judge": judge, "preferences": data, "name": self.name}
        return self.add("OneRewardTrainJudge", **values | SHORT | inputs)

    def report(self, judge: Link, data: Link, **inputs: Any) -> Link:
        values = {"judge": judge, "preferences": data, "name": self.name, "split": "test_and_dev"}
        return self.add("OneRewardJudgeReport", **values | inputs)

    def whole(self) -> Graph:
        data = self.label(self.generate())
        self.show(self.report(self.train(data), data))
        return self.graph


@pytest.fixture(scope="module")
def chain(comfyui: ComfyServer) -> Graph:
    """Run the whole chain once; return its graph."""
    graph = Chain("chain").whole()
    job = ComfyClient(comfyui.url).run(graph)
    assert job.succeeded, job.error
    return graph


def test_from_conditions_to_a_report_in_one_graph(client: ComfyClient, chain: Graph, work: Path):
    data = PreferenceSet(work / "preferences" / "chain")
    assert len(data.groups()) == NUM
    assert {pair.judged_by for pair in data.pairs()} == {f"judge:{JUDGE}"}
    assert (work / "judges" / "chain" / "adapter" / "adapter_model.safetensors").is_file()
    files = {path.name for path in (work / "judge-reports" / "chain").iterdir()}
    assert files == {"config.json", "report.json", "report.md", "report.png"}
    client.run(chain)  # once more, since the folders have changed
    assert client.run(chain).executed_nodes == []


def test_the_commands_make_the_same_from_the_nodes_files(
    chain: Graph, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Candidates, labels, adapter and report of one process, without ComfyUI."""
    first, again = work / "preferences" / "chain", tmp_path / "data"
    job = replace(GenerateJob.load(first / "generate.json"), preferences_folder=str(again))
    (tmp_path / "generate.json").write_text(job.to_json())
    run("generate", tmp_path / "generate.json")
    assert (again / "candidates.jsonl").read_text() == (first / "candidates.jsonl").read_text()
    for group in PreferenceSet(again).groups():
        for name in group.file_names:
            assert (again / name).read_bytes() == (first / name).read_bytes()
    run("label", copy_of(first / "label.json", tmp_path, preferences_folder=again))
    assert (again / "metadata.jsonl").read_text() == (first / "metadata.jsonl").read_text()
    judge = work / "judges" / "chain"
    config = copy_of(
        judge / "config.json", tmp_path, preferences_folder=again, run_folder=tmp_path / "run"
    )
    run("train-judge", config)
    trained, expected = (
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (tmp_path / "run", judge)
    )
    assert all(torch.equal(trained[key], expected[key]) for key in expected)
    capsys.readouterr()
    report = work / "judge-reports" / "chain"
    run("report", copy_of(report / "config.json", tmp_path, report_folder=tmp_path / "report"))
    assert "| remove |" in capsys.readouterr().out
    again_report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert again_report == json.loads((report / "report.json").read_text())


def run(command: str, config: Path) -> None:
    assert cli.main([command, str(config)]) == 0


def copy_of(config: Path, folder: Path, **paths: Path) -> Path:
    """Write a copy of a config with other folders."""
    values = json.loads(config.read_text()) | {key: str(path) for key, path in paths.items()}
    path = folder / f"{config.stem}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.usefixtures("chain")
def test_the_trained_adapter_can_be_chosen_and_judges(client: ComfyClient):
    assert "chain/adapter" in choices(client, "OneRewardLoadJudge", "adapter")
    means = []
    for adapter in ("none", "chain/adapter"):
        g = Chain("scores")
        judge = g.load_judge(adapter=adapter)
        images = [solid(g, colour) for colour in (0xFF2010, 0x1020FF)]
        values = {"task": "remove", "prompt": "", "swap": False}
        score = g.add("OneRewardScore", judge=judge, image_a=images[0], image_b=images[1], **values)
        preview = g.add("PreviewAny", source=score)
        job = client.run(g.graph)
        assert job.succeeded, job.error
        means.append(job.outputs[preview[0]]["text"][0])
    assert means[0] != means[1]


def test_what_pick_best_compares_becomes_data(client: ComfyClient, work: Path):
    g = Chain("picked")
    batch = solid(g, 0xFF0000)
    for colour in (0x00FF00, 0x0000FF):
        batch = g.add("ImageBatch", image1=batch, image2=solid(g, colour))
    values = {"task": "fill", "prompt": "a red circle", "view": "image_with_source"}
    best = g.add(
        "OneRewardPickBest",
        judge=g.load_judge(),
        candidates=batch,
        source=solid(g, 0x808080),
        save_as="picked",
        **values,
    )
    g.add("PreviewImage", images=best)
    assert client.run(g.graph).succeeded
    data = PreferenceSet(work / "preferences" / "picked")
    (group,) = data.groups()
    assert len(group.file_names) == 3
    assert data.image(group.source_file_name).is_file()
    pairs = data.pairs()
    assert {pair.judged_by for pair in pairs} == {f"judge:{JUDGE}"}
    assert {pair.prompt for pair in pairs} == {"a red circle"}
    assert all(0.5 < pair.confidence <= 1 for pair in pairs)
    label = "onereward/preferences/picked [output]"
    assert label in choices(client, "OneRewardLoadPreferences", "folder")
    g = Chain("loaded")
    relabelled = g.label(g.load_preferences(label))
    g.add("PreviewAny", source=output(relabelled, 1))
    assert client.run(g.graph).succeeded


def solid(g: GraphBuilder, colour: int) -> Link:
    return g.add("EmptyImage", width=64, height=64, batch_size=1, color=colour)


def choices(client: ComfyClient, node: str, name: str) -> list[str]:
    inputs = client.object_info(node)["input"]
    spec = (inputs.get("required", {}) | inputs.get("optional", {}))[name]
    return spec[1].get("options", spec[0])


def test_cancel_while_generating_keeps_whole_conditions(client: ComfyClient, work: Path):
    def graph() -> Graph:
        g = Chain("stopped")
        g.generate(num=6, steps_max=8)
        return g.graph

    first = cancelled(client, graph(), "3")
    assert first.was_interrupted
    data = PreferenceSet(work / "preferences" / "stopped")
    assert len(data.groups()) < 6
    assert client.run(graph()).succeeded
    assert len(data.groups()) == 6


def test_cancel_while_training_keeps_the_steps(client: ComfyClient, chain: Graph, work: Path):
    def graph(steps: int) -> Graph:
        g = Chain("cut")
        data = g.load_preferences("onereward/preferences/chain [output]")
        g.train(data, steps=steps)
        return g.graph

    assert cancelled(client, graph(100_000), "3").was_interrupted
    state = work / "judges" / "cut" / "checkpoint" / "state.json"
    step = json.loads(state.read_text())["step"]
    assert step > 0
    assert (work / "judges" / "cut" / "adapter").is_dir()
    job = client.run(graph(step + 2))
    assert job.succeeded, job.error
    assert json.loads(state.read_text())["step"] == step + 2
    steps = [
        json.loads(line)["step"]
        for line in (work / "judges" / "cut" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(set(steps))


def cancelled(client: ComfyClient, graph: Graph, node: str) -> Any:
    """Run a graph and cancel when a node is past its second step."""

    def is_at_work(event: Event) -> bool:
        return event.kind == "progress" and event.data["node"] == node and event.data["value"] > 1

    with client.listen() as listener:
        prompt_id = client.queue(graph)
        listener.until(is_at_work)
        client.interrupt(prompt_id)
        return listener.finish(prompt_id)


def preference_data(folder: Path, *, damaged: bool = False) -> str:
    """Write pairs of both splits with images; return the folder's label."""
    data = PreferenceSet(folder)
    for index in range(30):
        for name, level in (("a", 0.9), ("b", 0.1)):
            save_image(folder / f"{index}-{name}.png", torch.full((32, 32, 3), level))
        names = {"winner_file_name": f"{index}-a.png", "loser_file_name": f"{index}-b.png"}
        task = {"task": Task.REMOVE, "dimension": Dimension.REMOVAL_QUALITY}
        data.add(Preference(**names, **task, condition=str(index)))
        if damaged:
            (folder / f"{index}-b.png").write_bytes(b"no image")
    return f"{folder.name} [output]"


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("../x", {}, "name is '../x', but up to 100 letters"),
        ("bad", {"num_candidates": 65}, "65"),
        ("bad", {"steps_min": 9, "steps_max": 3}, "steps goes from 9 to 3; give the smaller value"),
        ("bad", {"denoise_min": 0.9, "denoise_max": 0.5}, "denoise goes from 0.9 to 0.5"),
    ],
    ids=["name", "number", "steps", "denoise"],
)
def test_bad_generating_is_refused(
    client: ComfyClient, name: str, inputs: dict[str, Any], message: str
):
    g = Chain("refused")
    g.generate(num=1, **{"name": name} | inputs)
    refused(client, g.graph, message)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"judge": None}, "no judge is connected; connect one"),
        ({"labeller": "neighbour"}, "labeller"),
        ({"labeller": "metrics"}, "has no mask, which metrics need"),
    ],
    ids=["judge", "labeller", "metrics"],
)
def test_bad_labelling_is_refused(
    client: ComfyClient, work: Path, inputs: dict[str, Any], message: str
):
    g = Chain("refused")
    label = "onereward/preferences/picked [output]"
    if inputs.get("labeller") == "metrics":
        label = unmasked(work)
    g.label(g.load_preferences(label), **inputs)
    refused(client, g.graph, message)


def test_a_bundled_example_is_not_labelled_in_its_place(client: ComfyClient):
    g = Chain("refused")
    g.label(g.load_preferences(TOY_PREFERENCES))
    refused(client, g.graph, "is a bundled example, which stays as it is")


def unmasked(work: Path) -> str:
    """Write candidates without a mask; return the folder's label."""
    data = PreferenceSet(work.parent / "unmasked")
    if not data.groups():
        data.add_group(CandidateGroup(file_names=("a.png",), task=Task.FILL, condition="c"))
    return "unmasked [output]"


@pytest.mark.parametrize(
    ("damaged", "inputs", "message"),
    [
        (False, {"name": "a/b"}, "name is 'a/b'"),
        (False, {"view": "image_with_source"}, "needs the source"),
        (False, {"mode": "half"}, "mode"),
        (False, {"learning_rate": -0.5}, "learning_rate is -0.5; use 0 or more, or -1"),
        (True, {}, "cannot be read as an image"),
    ],
    ids=["name", "view", "mode", "rate", "damaged"],
)
def test_bad_training_is_refused(
    client: ComfyClient, work: Path, damaged: bool, inputs: dict[str, Any], message: str
):
    folder = work.parent / ("damaged-pairs" if damaged else "whole-pairs")
    g = Chain("refused")
    g.train(g.load_preferences(preference_data(folder, damaged=damaged)), **inputs)
    refused(client, g.graph, message)


def test_data_without_pairs_is_refused(client: ComfyClient, work: Path):
    label = unmasked(work)
    g = Chain("refused")
    g.train(g.load_preferences(label))
    refused(client, g.graph, "holds no pairs of its train split")
    g = Chain("refused")
    g.report(g.load_judge(), g.load_preferences(label))
    refused(client, g.graph, "holds no pairs of its test_and_dev split")
    for bad in ("nowhere", "../models"):
        g = Chain("refused")
        g.report(g.load_judge(), g.load_preferences(bad))
        refused(client, g.graph, bad)


@pytest.mark.skipif(BUNDLED_FOLDER.is_dir(), reason="the bundled judge is there")
def test_an_absent_bundled_judge_is_named(client: ComfyClient):
    g = Chain("refused")
    g.add("PreviewAny", source=g.add("OneRewardLoadJudge", judge="bundled (tiny)"))
    refused(client, g.graph, "the bundled judge is not part of this copy of the pack")
