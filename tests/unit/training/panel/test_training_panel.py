"""The training panel: what it shows is what the run wrote, and what it asks for happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.training.data.conditions import read_image
from onereward.training.panel.panel_routes import PATH, add_panel
from onereward.training.panel.run_view import MAX_LINES, run_view, sample_file, thinned
from onereward.training.policy.run import PolicyRun, train_policy
from onereward.training.policy.run_models import RunModels
from onereward.training.runs.distributed import Distributed
from onereward.training.runs.run_requests import ask
from support.brightness_judge import BrightnessJudge
from support.bundled_models import bundled_models
from support.policy_runs import make_conditions, policy_config
from support.recording_host import RecordingHost


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_conditions(tmp_path_factory.mktemp("conditions"))


def config_for(run: Path, conditions: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {"objective": "supervised", "steps": 4, "batch_size": 2}
    return policy_config(run, conditions, Path("brightness"), **values | changes)


def models() -> RunModels:
    return RunModels(models=bundled_models(), judges=(BrightnessJudge(),))


class AskingHost(RecordingHost):
    """Asks a run for something when it reports a step."""

    def __init__(self, run: Path, requests: Mapping[int, str]) -> None:
        super().__init__()
        self.run, self.requests = run, requests

    def progress(self, step: int, total: int, preview: Any = None) -> None:
        super().progress(step, total, preview)
        if (self.run / "metrics.jsonl").is_file() and (request := self.requests.get(step)):
            ask(self.run, request)


def test_a_run_is_shown_as_it_wrote_itself(conditions: Path, tmp_path: Path) -> None:
    config = config_for(tmp_path / "run", conditions, eval_every=2, save_total_limit=1)
    run = PolicyRun(config, RecordingHost(), models(), Distributed())
    try:
        run.run()
        result = run.monitor.evaluate()
    finally:
        run.close()
    view = run_view(tmp_path / "run")
    lines = (tmp_path / "run/metrics.jsonl").read_text("utf-8").splitlines()
    assert view["metrics"] == [json.loads(line) for line in lines]
    assert (view["status"], view["step"], view["steps"]) == ("finished", 4, 4)
    assert view["samples"] == [4], "save_total_limit keeps the last"
    assert len(view["edits"]) == len(result.pairs) > 0
    for index, (start, now) in enumerate(result.pairs):
        assert view["edits"][index]["task"] == start.condition.task.value
        images = {"4": now.image, "start": start.image, "source": start.source}
        for place, image in images.items():
            file = read_image(sample_file(tmp_path / "run", place, str(index)))
            assert (file - image.permute(1, 2, 0)).abs().max() <= 0.51 / 255


def test_a_run_evaluates_and_stops_when_it_is_asked_and_goes_on_exactly(
    conditions: Path, tmp_path: Path
) -> None:
    whole = config_for(tmp_path / "whole", conditions)
    train_policy(whole, RecordingHost(), models())
    config = config_for(tmp_path / "asked", conditions)
    host = AskingHost(tmp_path / "asked", {1: "evaluate", 2: "stop"})
    result = train_policy(config, host, models())
    assert (result.step, result.path.is_file()) == (2, True)
    assert "stopped as asked after 2 of 4 steps; run again to go on" in result.notes
    assert ["drift.brightness" in line for line in result.metrics] == [False, True]
    assert not (tmp_path / "asked/requests").exists()
    assert train_policy(config, RecordingHost(), models()).step == 4
    states = [load_file(tmp_path / n / "checkpoint/state.safetensors") for n in ("whole", "asked")]
    names = [name for name in states[0] if not name.startswith("monitor")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in names)


def test_long_runs_are_thinned_but_for_their_evaluations() -> None:
    lines = [{"step": float(s)} | ({"eval": 0.5} if s % 977 == 0 else {}) for s in range(9000)]
    records = thinned(lines)
    assert len(records) <= MAX_LINES + 15
    assert [line for line in lines if "eval" in line] == [
        line for line in records if "eval" in line
    ]
    assert records[-1] == lines[-1]
    assert thinned([{"step": 1.0, "loss": float("nan")}]) == [{"step": 1.0, "loss": None}]


class Folders:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> Sequence[str]:
        return ["policies/mine", "policies/empty"]

    def find(self, name: str) -> Path:
        if name not in self.names():
            raise ValueError("no such run")
        return self.folder / name


def test_routes_answer_their_own_page_only(tmp_path: Path) -> None:
    run = tmp_path / "policies/mine"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"format": 1, "steps": 9}')
    (run / "metrics.jsonl").write_text('{"step": 3, "seconds": 6.0, "loss": 0.5}\n{"step": 4, "se')

    async def ask_all() -> list[tuple[int, Any]]:
        from aiohttp import web
        from aiohttp.test_utils import TestClient, TestServer

        routes = web.RouteTableDef()
        add_panel(Folders(tmp_path), routes)
        app = web.Application()
        app.add_routes(routes)
        async with TestClient(TestServer(app)) as client:
            answers: list[tuple[int, Any]] = []
            for query in (
                "runs",
                "run?run=policies/mine",
                "run?run=policies/empty",
                "run?run=../../etc",
                "sample?run=policies/mine&place=../..&index=0",
            ):
                answer = await client.get(f"{PATH}/api/{query}")
                answers.append((answer.status, await answer.json()))
            body = {"run": "policies/mine", "request": "stop"}
            answer = await client.post(f"{PATH}/api/request", json=body)
            answers.append((answer.status, await answer.json()))
            cross_site = {"Sec-Fetch-Site": "cross-site"}
            answer = await client.post(f"{PATH}/api/request", json=body, headers=cross_site)
            answers.append((answer.status, await answer.json()))
            page = await client.get(f"{PATH}/")
            answers.append((page.status, (await page.text())[:15]))
            outside = await client.get(f"{PATH}/..%2Fonereward.js")
            answers.append((outside.status, None))
        return answers

    runs, view, empty, outside, image, request, foreign, page, file = asyncio.run(ask_all())
    assert runs[0] == 200
    assert runs[1]["runs"][0] == {
        **{"run": "policies/mine", "status": "stopped"},
        **{"step": 3, "steps": 9, "seconds": 6.0},
    }
    assert "holds no run" in runs[1]["runs"][1]["error"]
    assert (view[0], view[1]["metrics"]) == (200, [{"step": 3.0, "seconds": 6.0, "loss": 0.5}])
    assert [empty[0], outside[0], image[0], request[0], foreign[0]] == [404, 400, 404, 400, 403]
    assert "not running" in request[1]["error"]
    assert page == (200, "<!doctype html>")
    assert file[0] == 404
    assert not (run / "requests").exists()
