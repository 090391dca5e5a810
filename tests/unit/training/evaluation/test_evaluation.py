"""Evaluation: it goes on where it stopped with the same result, and counts right."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward import cli
from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.local_host import LocalHost
from onereward.fill.pipeline import run_fill
from onereward.fill.task import Task
from onereward.lab.ground_truth import WorldGroundTruth
from onereward.lab.toy_dataset import make_from_world
from onereward.lab.world.splits import Split
from onereward.reward.judge import JudgeConfig
from onereward.reward.query import queries_for
from onereward.reward.report import sign_test, wilson_interval
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.data.conditions import EditDataset, read_image
from onereward.training.data.edit_dataset import EditDatasetConfig
from onereward.training.evaluation.config import EvalConfig
from onereward.training.evaluation.report import Report, Row
from onereward.training.evaluation.run import EvalModels, evaluate
from onereward.training.evaluation.votes import GOOD, SAME, count_votes, vote
from onereward.training.jobs import EvaluateJob
from support.bundled_models import BUNDLED, bundled_models
from support.judges import make_judge
from support.recording_host import CancelledError, RecordingHost

FAST = FillConfig(steps=2)
NUM = 4
MODEL = {"model": asdict(ModelConfig(folder=str(BUNDLED), precision="fp32"))}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> QwenJudge:
    folder = make_judge(tmp_path_factory.mktemp("judge"))
    return QwenJudge(JudgeConfig(folder=str(folder), precision="fp32"), torch.device("cpu"))


@pytest.fixture(scope="module")
def conditions(tmp_path_factory: pytest.TempPathFactory) -> EditDataset:
    folder = tmp_path_factory.mktemp("conditions")
    config = EditDatasetConfig(num_conditions=NUM)
    return make_from_world(folder, Split.TEST, config, LocalHost("cpu"))


@pytest.fixture(scope="module")
def eval_models(judge: QwenJudge) -> EvalModels:
    return EvalModels(
        model=bundled_models(), baseline=bundled_models(), judge=judge, truth=WorldGroundTruth()
    )


@pytest.fixture(scope="module")
def whole(
    eval_models: EvalModels, conditions: EditDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Report]:
    """An evaluation of two candidates that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    config = EvalConfig(best_of=2, margin=0.0)
    return folder, evaluate(eval_models, conditions, config, folder, RecordingHost(), FAST)


def test_one_that_stops_comes_to_the_same(
    whole: tuple[Path, Report], eval_models: EvalModels, conditions: EditDataset, tmp_path: Path
) -> None:
    config, calls = EvalConfig(best_of=2, margin=0.0), 0
    while True:
        host = RecordingHost(cancel_at_call=40)
        try:
            evaluate(eval_models, conditions, config, tmp_path, host, FAST)
            break
        except CancelledError:
            calls += 1
        with (tmp_path / "results.jsonl").open("a") as file:
            file.write('{"torn')
    assert calls >= 2
    for name in ("results.jsonl", "report.json", "report.md", "sheet.png"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes(), name


def test_images_are_those_of_the_edits_alone(
    whole: tuple[Path, Report], conditions: EditDataset
) -> None:
    folder, report = whole
    row = report.rows[0]
    condition = next(c for c in conditions.conditions if c.name == row.condition)
    request = conditions.request(condition, seed=0, config=FAST)
    expected = run_fill(request, bundled_models(), RecordingHost()).image[0]
    image = read_image(folder / row.images["baseline"])
    assert (image - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_the_judge_is_asked_about_the_files_in_both_orders(
    whole: tuple[Path, Report], conditions: EditDataset, judge: QwenJudge
) -> None:
    folder, report = whole
    for row in report.rows:
        condition = next(c for c in conditions.conditions if c.name == row.condition)
        files = [row.images["model"], row.images["baseline"]]
        a, b = judge.encode_images([read_image(folder / f).permute(2, 0, 1) for f in files])
        for query in queries_for(condition.task, condition.full_prompt):
            with torch.no_grad():
                forth, back = float(judge.ask(a, b, [query])), float(judge.ask(b, a, [query]))
            expected = (forth + 1 - back) / 2
            assert row.beside_baseline[query.dimension.value] == pytest.approx(expected, abs=1e-5)
        dimensions = set(row.beside_source["model"])
        if condition.task is Task.EXTEND:
            assert dimensions == set(row.beside_baseline)
        else:
            assert len(dimensions) == 1


def test_the_judge_keeps_the_candidate_it_prefers(
    whole: tuple[Path, Report], conditions: EditDataset, judge: QwenJudge
) -> None:
    folder, report = whole
    for row in report.rows:
        condition = next(c for c in conditions.conditions if c.name == row.condition)
        best = row.images["model"]
        (worst,) = {f"{best[:-5]}{k}.png" for k in "01"} - {best}
        queries = queries_for(condition.task, condition.full_prompt)
        files = [read_image(folder / name).permute(2, 0, 1) for name in (best, worst)]
        with torch.no_grad():
            a, b = judge.encode_images(files)
            assert (judge.ask(a, b, queries) - judge.ask(b, a, queries)).mean() >= -1e-5


def row(task: Task, index: int, **changes: Any) -> Row:
    measures = {"seam": 0.01, "tone": 0.0, "texture": 0.1}
    values: dict[str, Any] = {
        "key": f"{task.value}-{index}",
        "condition": f"{task.value}-{index}",
        "task": task.value,
        "images": {"model": "m.png", "baseline": "r.png"},
        "measures": {"model": measures, "baseline": measures},
    }
    return Row(**values | changes)


def test_the_report_counts() -> None:
    seam = {"model": {"seam": 0.2, "tone": 0.0}, "baseline": {"seam": None, "tone": 0.3}}
    rows = (
        row(
            Task.REMOVE,
            0,
            usable={"model": True, "baseline": False},
            beside_baseline={"removal_quality": 0.9},
            beside_source={
                "model": {"removal_quality": 0.6},
                "baseline": {"removal_quality": 0.4},
            },
        ),
        row(Task.REMOVE, 1, measures=seam, usable={"model": True, "baseline": True}),
        row(Task.FILL, 0, measures=seam, beside_baseline={"structure": 0.52, "consistency": 0.5}),
        row(Task.TEXT, 0, measures={s: {"seam": 0.0, "text": 0.5} for s in ("model", "baseline")}),
    )
    numbers = Report(config=EvalConfig(), rows=rows).numbers()
    remove = numbers["sides"]["remove"]
    assert remove["model"]["usable"]["share"] == 1.0
    assert remove["baseline"]["usable"]["share"] == 0.5
    assert remove["model"]["sound"]["share"] == 0.5
    assert remove["baseline"]["sound"]["share"] == 0.5
    assert remove["baseline"]["seam"] == pytest.approx(0.01)
    assert remove["model"]["accepted"] == {
        "share": 1.0,
        "count": 1,
        **dict(zip(("low", "high"), wilson_interval(1.0, 1), strict=True)),
    }
    assert remove["baseline"]["accepted"]["share"] == 0.0
    # A difference of tone is no fault of a fill: what was asked for may have any colour.
    assert numbers["sides"]["fill"]["baseline"]["sound"]["share"] == 1.0
    assert numbers["sides"]["text"]["model"]["sound"]["share"] == 0.0
    assert numbers["votes"]["remove"]["oracle"]["good"] == 1
    assert numbers["votes"]["remove"]["oracle"]["same"] == 1
    assert numbers["votes"]["fill"] == {
        "judge": {"good": 0, "same": 1, "bad": 0, "interval": None, "p": None}
    }
    assert numbers["chances"]["remove"] == {
        "model beside source": {"removal_quality": 0.6},
        "baseline beside source": {"removal_quality": 0.4},
        "model beside baseline": {"removal_quality": 0.9},
    }
    everything = numbers["votes"]["all"]["judge"]
    assert (everything["good"], everything["same"], everything["bad"]) == (1, 1, 0)
    assert everything["p"] == sign_test(1, 0)


def test_a_vote_near_one_half_is_the_same() -> None:
    assert vote(0.55, 0.05) == SAME or vote(0.5499, 0.05) == SAME
    assert vote(0.56, 0.05) == GOOD
    votes = count_votes([vote(p, 0.0) for p in (0.5, 0.51, 0.49, 0.2)])
    assert (votes.num_good, votes.num_same, votes.num_bad) == (1, 1, 2)
    assert votes.interval == wilson_interval(1 / 3, 3)


def test_results_of_something_else_are_refused(
    whole: tuple[Path, Report], eval_models: EvalModels, conditions: EditDataset
) -> None:
    folder, config = whole[0], EvalConfig(best_of=2)
    host = RecordingHost()
    with pytest.raises(ValueError, match="results of another best_of"):
        evaluate(eval_models, conditions, replace(config, best_of=3), folder, host, FAST)
    with pytest.raises(ValueError, match="results of another settings"):
        evaluate(eval_models, conditions, config, folder, host, FillConfig(steps=3))
    with pytest.raises(ValueError, match="results of another best_of, judge"):
        evaluate(replace(eval_models, judge=None), conditions, EvalConfig(), folder, host)
    with pytest.raises(ValueError, match="no judge to choose"):
        evaluate(replace(eval_models, judge=None), conditions, config, folder, host, FAST)


def test_the_command_line_measures_without_a_judge(
    conditions: EditDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = EvaluateJob(
        model=MODEL,
        dataset_folder=str(conditions.folder),
        evaluation_folder=str(tmp_path / "made"),
        judge={},
        settings=EvalConfig(num_conditions=2),
        sampling=FillConfig(steps=1),
    )
    assert EvaluateJob.from_json(job.to_json()) == job
    (tmp_path / "job.json").write_text(job.to_json())
    assert cli.main(["evaluate", str(tmp_path / "job.json")]) == 0
    assert "| all | model | 2 |" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "made" / "report.json").read_text())
    assert "accepted" not in numbers["sides"]["all"]["model"]
    assert "usable" not in numbers["sides"]["all"]["model"], "no ground truth was handed in"
    (tmp_path / "job.json").write_text(replace(job, model={}).to_json())
    assert cli.main(["evaluate", str(tmp_path / "job.json")]) == 1
    assert "names no model" in capsys.readouterr().err
