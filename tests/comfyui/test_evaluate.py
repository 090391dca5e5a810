"""The evaluation in the real server: two models on a data set, and more seeds later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onereward import cli
from support.client import ComfyClient, Graph
from support.edits import TOY_TEST, EditGraph
from support.graph import output
from support.refusals import refused
from support.server import ComfyServer

NUM = 4


def graph(**inputs: Any) -> tuple[Graph, str, str]:
    """Return a graph with one evaluation, and the ids of what shows its table and its report."""
    g = EditGraph()
    values: dict[str, Any] = {
        "model": g.add_model(),
        "dataset": g.add_dataset(TOY_TEST),
        "baseline": g.add_model(),
        "settings": g.add("OneRewardSettings", steps=2),
        "name": "measured",
    }
    evaluation = g.add("OneRewardEvaluate", **values | inputs)
    g.show(evaluation)
    table, report = (g.add("PreviewAny", source=output(evaluation, n))[0] for n in (1, 2))
    return g.graph, table, report


def test_an_evaluation_goes_on_and_the_command_line_does_the_same(
    client: ComfyClient, comfyui: ComfyServer, tmp_path: Path
):
    folder = comfyui.base_directory / "output" / "onereward" / "evaluations" / "measured"
    first, _, report = graph()
    job = client.run(first)
    assert job.succeeded, job.error
    numbers = json.loads(job.outputs[report]["text"][0])
    assert numbers["sides"]["all"]["model"] == numbers["sides"]["all"]["baseline"]
    assert numbers["sides"]["all"]["model"]["edits"] == NUM
    images = {p: p.stat().st_mtime_ns for p in folder.rglob("images/**/*.png")}
    assert len(images) == 2 * NUM
    more, _, report = graph(num_seeds=2)
    job = client.run(more)
    assert job.succeeded, job.error
    assert json.loads(job.outputs[report]["text"][0])["sides"]["all"]["model"]["edits"] == 2 * NUM
    assert all(p.stat().st_mtime_ns == then for p, then in images.items())
    text = (folder / "config.json").read_text().replace(str(folder), str(tmp_path / "again"))
    (tmp_path / "config.json").write_text(text)
    assert cli.main(["evaluate", str(tmp_path / "config.json")]) == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    whole = json.loads((folder / "report.json").read_text())
    assert again["sides"]["all"]["model"]["sound"] == whole["sides"]["all"]["model"]["sound"]


def test_bad_input_gets_one_sentence(client: ComfyClient):
    best_of = "best_of is 2, but there is no judge to choose"
    refused(client, graph(best_of=2, name="other")[0], best_of)
    refused(client, graph(name="../x")[0], "name is '../x', but up to 100 letters")
