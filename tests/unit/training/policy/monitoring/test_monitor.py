"""Rewarded cells, evaluations and measures of drift: each on a case whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onereward.fill.memory.components import Component
from onereward.fill.task import Dimension, Task
from onereward.reward.query import queries_for
from onereward.reward.report import Answer, make_report, read_report, write_report
from onereward.training.charts.dashboard import plot_dashboard, reward_lines
from onereward.training.charts.strips import Strip
from onereward.training.data.conditions import Condition
from onereward.training.edited_image import EditedImage, EditPair
from onereward.training.policy.adapter_file import read_about
from onereward.training.policy.monitoring import monitor
from onereward.training.policy.monitoring.drift import Drift, measure_drift
from onereward.training.policy.monitoring.monitor import Monitor
from onereward.training.policy.reward_cells import ALL_CELLS, select_reward_cells
from onereward.training.policy.rewards import ask_judge
from onereward.training.policy.run import ADAPTER, PolicyRun, train_policy
from support.bundled_models import bundled_models
from support.judges import make_judge
from support.live_memory import LiveMemory
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import RecordingHost

CONDITION = Condition(
    name="one", task=Task.REMOVE, image_file_name="one.png", mask_file_name="one.mask.png"
)
GOOD, BAD = (Task.FILL, Dimension.STRUCTURE), (Task.FILL, Dimension.AESTHETICS)


def answers(cell: tuple[Task, Dimension], right: int, wrong: int) -> list[Answer]:
    results = []
    for score, count in ((0.9, right), (0.1, wrong)):
        results += [Answer(criterion=cell, winner_first=score, loser_first=1 - score)] * count
    return results


def make_pair(
    seed: int, lattice: float = 0.0, light: float = 0.0, is_same: bool = False
) -> EditPair:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(
        torch.rand(2, 3, 4, 4, generator=generator), (32, 32), mode="bilinear"
    )
    if is_same:
        smooth[1] = smooth[0]
    checker = (torch.arange(32)[:, None] + torch.arange(32)) % 2 - 0.5
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:24, 8:24] = True
    images = smooth + lattice * checker + light
    first, second = (
        EditedImage(
            condition=CONDITION, source=smooth[0], mask=inside.float(), image=image, raw=image
        )
        for image in images
    )
    return first, second


def test_cells_that_the_judge_can_judge_are_rewarded(tmp_path: Path) -> None:
    report = make_report(answers(GOOD, 16, 4) + answers(BAD, 14, 6))
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    cells = select_reward_cells([report], 0.75)
    assert cells.cells == {GOOD}
    (note,) = [n for n in cells.notes if "aesthetics" in n and n.startswith("fill")]
    assert "70.0% of 20 held-out pairs, below 75%" in note
    assert any("remove" in n and "no held-out pairs" in n for n in cells.notes)
    queries = cells.allowed(queries_for(Task.FILL, "a dog"))
    assert [q.criterion for q in queries] == [GOOD]


def test_every_judge_of_an_ensemble_has_to_pass() -> None:
    report = make_report(answers(GOOD, 18, 2) + answers(BAD, 18, 2))
    second_report = make_report(answers(GOOD, 18, 2) + answers(BAD, 11, 9))
    assert select_reward_cells([report, second_report], 0.75).cells == {GOOD}
    assert select_reward_cells([report, second_report], 0.0).cells == set(ALL_CELLS)
    trusted = select_reward_cells([None], 0.75)
    assert trusted.cells == set(ALL_CELLS)
    assert "no report" in trusted.notes[0]
    with pytest.raises(ValueError, match=r"below 95% .* every task and dimension"):
        select_reward_cells([report], 0.95)


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"format": 1, "cells": {"paint.speed": {}}}')
    with pytest.raises(ValueError, match=r"report\.json is no report of a judge"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("now", "complaint"),
    [
        ({}, None),
        ({"lattice": 0.2}, "fine structure is"),
        ({"light": 0.2}, "brightness has moved by +0.20"),
        ({"is_same": True}, "different seeds are 0.0"),
    ],
)
def test_drift_measures_what_a_hacked_reward_leaves(
    now: dict[str, Any], complaint: str | None
) -> None:
    start = [make_pair(seed) for seed in range(4)]
    drift = measure_drift(start, [make_pair(seed, **now) for seed in range(4)])
    message = drift.complaint()
    assert (
        (message is None) if complaint is None else (message is not None and complaint in message)
    )
    if not now:
        assert drift == Drift(
            brightness=0.0, saturation=0.0, high_frequency=1.0, diversity=1.0, outside=0.0
        )


def test_outside_is_measured_outside() -> None:
    start, now = make_pair(0), make_pair(0)
    for edited in now:
        edited.image[:, edited.mask == 0] += 0.1
    assert measure_drift([start], [now]).outside == pytest.approx(0.1, abs=0.06)
    assert measure_drift([start], [now]).brightness == 0.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("monitor")
    return make_conditions(folder / "conditions"), make_judge(folder / "judge")


def test_a_run_evaluates_keeps_the_best_and_stops_itself(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions, judge = folders
    scores: list[float] = [0.6, 0.9, 0.7, 0.5]  # the evaluation judge's at each evaluation
    evaluations = iter(scores)
    monkeypatch.setattr(Monitor, "_scores", lambda self, now: {"eval_judge": next(evaluations)})
    config = policy_config(
        tmp_path,
        conditions,
        judge,
        eval_judge={"folder": str(judge)},
        steps=9,
        batch_size=1,
        learning_rate=1e-4,
        eval_every=1,
        eval_conditions=2,
        patience=2,
        save_total_limit=2,
    )
    host = RecordingHost()
    result = train_policy(config, host, run_models_for(config))
    assert result.step == 4
    assert "no better evaluation for 2 evaluations" in result.notes[-1]
    assert read_about(tmp_path / ADAPTER)["step"] == 2
    names = sorted(p.name for p in (tmp_path / "results").iterdir())
    assert names == ["best.safetensors", "step-000003.safetensors", "step-000004.safetensors"]
    assert len(host.previews) == 4
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["eval_judge"] for line in metrics] == scores
    # Queued again it has nothing to do, and still gives the best.
    again = train_policy(config, RecordingHost(), run_models_for(config))
    assert (again.step, read_about(again.path)["step"]) == (4, 2)


def test_a_hacked_policy_is_stopped_and_the_start_scores_one_half(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    conditions, judge = folders
    config = policy_config(
        tmp_path, conditions, judge, steps=3, learning_rate=0.0, eval_every=1, eval_conditions=2
    )
    result = train_policy(config, RecordingHost(), run_models_for(config))
    line = result.metrics[-1]
    assert line["eval"] == pytest.approx(0.5, abs=1e-6)
    assert line["drift.high_frequency"] == 1.0
    wild = policy_config(
        tmp_path / "wild", conditions, judge, steps=9, learning_rate=1.0, eval_every=1
    )
    stopped = train_policy(wild, RecordingHost(), run_models_for(wild))
    assert stopped.step < 9
    assert "stopped at step" in stopped.notes[-1]


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_run_that_drifts_before_any_good_evaluation_gives_the_start(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    conditions, judge = folders
    monkeypatch.setattr(Drift, "complaint", lambda self: "brightness has moved by +0.20")
    config = policy_config(
        tmp_path,
        conditions,
        judge,
        mode=mode,
        steps=3,
        batch_size=1,
        eval_every=1,
        eval_conditions=1,
    )
    transformer = bundled_models().transformer.module
    start = {name: p.detach().clone() for name, p in transformer.named_parameters()}
    result = train_policy(config, RecordingHost(), run_models_for(config))
    assert result.step == 1
    assert result.notes[-1].endswith("so the result is the start, unchanged")
    if mode == "full":
        tensors = load_file(result.path / "diffusion_pytorch_model.safetensors")
        assert tensors.keys() == start.keys()
        assert all(torch.equal(tensors[name], weights) for name, weights in start.items())
        return
    tensors = load_file(result.path)
    ups = [name for name in tensors if ".lora_B." in name]
    assert ups
    assert not any((tensors[b] @ tensors[b.replace("_B.", "_A.")]).any() for b in ups)
    assert read_about(result.path)["step"] == 0


def test_a_run_that_drifts_and_is_killed_at_its_end_gives_the_start(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its steps are done, so the next run only reads what is there."""
    conditions, judge = folders
    monkeypatch.setattr(Drift, "complaint", lambda self: "brightness has moved by +0.20")
    values: dict[str, Any] = {"steps": 1, "batch_size": 1, "eval_every": 1, "eval_conditions": 1}
    config = policy_config(tmp_path, conditions, judge, **values)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PolicyRun, "explain_stop", die)
        with pytest.raises(KeyboardInterrupt):
            train_policy(config, RecordingHost(), run_models_for(config))
    result = train_policy(config, RecordingHost(), run_models_for(config))
    assert result.step == 1
    assert read_about(result.path)["step"] == 0


def test_a_run_that_drifts_later_gives_the_good_checkpoint(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions, judge = folders
    complaints = iter([None, "brightness has moved by +0.20"])
    monkeypatch.setattr(Drift, "complaint", lambda self: next(complaints))
    config = policy_config(
        tmp_path, conditions, judge, steps=3, batch_size=1, eval_every=1, eval_conditions=1
    )
    result = train_policy(config, RecordingHost(), run_models_for(config))
    assert result.step == 2
    assert result.notes[-1] == "stopped at step 2: brightness has moved by +0.20"
    assert read_about(result.path)["step"] == 1


def test_a_run_from_anothers_checkpoint_has_evaluations_of_its_own(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions, judge = folders
    values: dict[str, Any] = {"steps": 1, "batch_size": 1, "eval_every": 1, "eval_conditions": 1}
    first = policy_config(tmp_path / "first", conditions, judge, **values)
    with monkeypatch.context() as patch:
        patch.setattr(Drift, "complaint", lambda self: "brightness has moved by +0.20")
        train_policy(first, RecordingHost(), run_models_for(first))
    values["init_from"] = str(tmp_path / "first" / "checkpoint")
    second = policy_config(tmp_path / "second", conditions, judge, **values)
    result = train_policy(second, RecordingHost(), run_models_for(second))
    assert result.step == 1
    assert "eval" in result.metrics[-1]


def test_an_evaluation_asks_for_the_room_that_its_judge_takes(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For judging alone, of pixels, without gradient; too much would only drive models out."""
    conditions, judge = folders
    config = policy_config(
        tmp_path, conditions, judge, steps=1, batch_size=1, eval_every=1, eval_conditions=1
    )
    run_models, rooms, peaks = run_models_for(config), [], []
    (component,) = run_models.judges[0].components

    class Host(RecordingHost):
        @contextmanager
        def resident(self, *components: Component, activation_bytes: int) -> Iterator[None]:
            if components == (component,):
                rooms.append(activation_bytes)
            with super().resident(*components, activation_bytes=activation_bytes):
                yield

    def measured(*arguments: Any) -> list[torch.Tensor]:
        with LiveMemory([*component.module.parameters(), *component.module.buffers()]) as memory:
            answers = ask_judge(*arguments)
        peaks.append(memory.peak)
        return answers

    monkeypatch.setattr(monitor, "ask_judge", measured)
    train_policy(config, Host(), run_models)
    (room,) = rooms
    assert max(peaks) < room < 20 * max(peaks)


def test_lines_are_of_rewards_and_any_length_is_drawn() -> None:
    metrics = [
        {"step": s, "loss": 0.5, "reward": s / 10, "fill.structure": 0.2, "eval.fill.structure": 1}
        for s in range(1, 11)
    ]
    lines = reward_lines(metrics)
    assert set(lines) == {"reward", "fill.structure"}
    values = [value for _, value in lines["reward"]]
    assert values == sorted(values)
    assert values[0] == 0.1
    for length in (0, 1, 10):
        images = (torch.rand(64, 64, 3),) * 3
        strip = Strip(task="fill", prompt="a hat", images=images, mask=torch.ones(64, 64))
        dashboard = plot_dashboard(metrics[:length], [strip] * 2)
        assert dashboard.ndim == 3
        assert 0 <= dashboard.min() <= dashboard.max() <= 1
