"""The report of the reproduction: numbers by hand, words by rule, complete in every case."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.lab.base_model.photographs import PHOTOGRAPHS
from onereward.lab.reproduce import __main__ as runner
from onereward.lab.reproduce.figures import _draw_sheets, hacked_result
from onereward.lab.reproduce.judge_stages import MAIN_JUDGE, NAIVE_JUDGE, judge_folder
from onereward.lab.reproduce.measurements import BASE, BEST
from onereward.lab.reproduce.policies import HACK_RUNS, SUPERVISED, ablation_name, ablation_runs
from onereward.lab.reproduce.report import measured_numbers, training_numbers
from onereward.lab.reproduce.report.numbers import SINGLE, TOGETHER
from onereward.lab.reproduce.report.paired import compare, compare_shares, share_numbers
from onereward.lab.reproduce.report.render import EMPTY_TABLE, render, report_numbers
from onereward.lab.reproduce.report.report_tables import Rows, report_tables
from onereward.lab.reproduce.stage import Context
from onereward.training.evaluation.config import EvalConfig
from onereward.training.evaluation.report import Report, Row
from onereward.training.policy.config import DYNAMIC, FIXED
from support.reproduction import (
    TASKS,
    by_task,
    finished_run,
    quick,
    write_usable,
)

YES, NO = True, False


def row_of(table: Rows, *first: str) -> list[str]:
    """The row of a table that begins so."""
    (row,) = [row for row in table if row[: len(first)] == list(first)]
    return row


def numbers_for(context: Context) -> dict[str, Any]:
    return report_numbers(context, runner.all_stages(context.config))


def tables_for(context: Context) -> dict[str, Rows]:
    return report_tables(numbers_for(context))


def text_for(context: Context, **images: str) -> str:
    return render(numbers_for(context), images)


def line_of(text: str, start: str) -> str:
    """The one line of the report that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


def test_a_scene_counts_once_however_many_seeds_it_has() -> None:
    before = torch.tensor([YES, NO, NO, YES, NO])
    after = torch.tensor([[YES, YES, YES, NO, YES], [YES, YES, NO, YES, YES]])
    change = compare(before, after)
    # Means per scene 1, 1, 1/2, 1/2, 1: three scenes won, one lost, one as before. Images would
    # be five won and one lost, p 14 / 64.
    assert (change.scenes, change.won, change.lost) == (5, 3, 1)
    assert change.p == pytest.approx(2 * (1 + 4) / 16)
    assert change.numbers()["change"] == pytest.approx(0.4)
    # Differences 0, 1, 1/2, -1/2, 1: their squared distances from 0.4 add up to 1.7.
    half = 1.959964 * (1.7 / 4) ** 0.5 / 5**0.5
    assert change.interval == pytest.approx((0.4 - half, 0.4 + half))


def test_scenes_that_are_all_equal_have_no_interval_and_no_difference() -> None:
    equal = compare(torch.tensor([YES, NO]), torch.tensor([YES, NO]))
    assert equal.interval is None
    assert (equal.won, equal.lost, equal.p, equal.outcome()) == (0, 0, 1.0, "equal")
    assert compare(torch.tensor([NO]), torch.tensor([YES])).interval is None


def test_the_outcome_follows_from_the_test_and_not_from_the_difference() -> None:
    def outcome(won: int, lost: int) -> str:
        before = torch.tensor([NO] * won + [YES] * lost)
        return compare(before, ~before).outcome()

    assert [outcome(9, 1), outcome(1, 9)] == ["better", "worse"]  # p 0.0215
    assert outcome(8, 2) == "no difference"  # p 0.1094
    # 90 and 60 of 100: Wilson's intervals are 0.826-0.945 and 0.502-0.691.
    high, low, middle = (share_numbers(share, 100) or {} for share in (0.9, 0.6, 0.7))
    assert [compare_shares(high, low), compare_shares(low, high)] == ["better", "worse"]
    assert compare_shares(low, middle) == "no difference"


def test_the_results_are_worded_by_outcome(tmp_path: Path) -> None:
    context = finished_run(tmp_path, test_scenes=3)
    write_usable(context, FIXED, [YES] * 9 + [NO] * 3)
    write_usable(context, BASE, [NO] * 9 + [YES] + [NO] * 2)
    write_usable(context, DYNAMIC, [NO] * 9 + [NO] + [NO] * 2)
    text = text_for(context)
    line = line_of(text, "- **Does reinforcement learning beat the base?**")
    assert "alg. 1: better (+66.7 (" in line
    assert "points, 9 scenes won, 1 lost, p = 0.0215)" in line
    assert "alg. 2: no difference that 12 scenes could show (-8.3 (" in line
    equal = line_of(text, "- **Supervised: all tasks in one model, or one model per task?**")
    assert equal.endswith("One per task: equal in each of 12 scenes.")


def test_single_tasks_are_named_if_they_differ_by_a_shared_limit(tmp_path: Path) -> None:
    context = finished_run(tmp_path, test_scenes=8)
    write_usable(context, FIXED, [YES] * 8 + [NO] * 24)
    line = line_of(text_for(context), "- **Does reinforcement learning beat the base?**")
    # Eight of eight: p 1/128, below 0.05 over four tasks.
    assert line.endswith("By task (p < 0.0125), alg. 1: fill better.")


def write_ablations(context: Context, usable_by_stage: dict[str, Sequence[bool]]) -> None:
    measured = context.read("ablations")
    base: Sequence[bool] = usable_by_stage.get(BASE) or measured[BASE]["usable"]
    for name, usable in usable_by_stage.items():
        measured[name] = {"usable": list(usable), "tasks": by_task(base, usable)}
    context.write("ablations", measured)


def test_settings_are_tested_by_scene_against_the_base_and_the_default(tmp_path: Path) -> None:
    context = finished_run(tmp_path, ablation_scenes=2, ablation_seeds=(0, 1))
    write_ablations(
        context,
        {
            BASE: [YES, NO, NO, NO, NO, NO, NO, NO],
            ablation_name("as configured", 0): [YES, YES, NO, NO, NO, NO, NO, NO],
            ablation_name("as configured", 1): [YES, NO, YES, NO, NO, NO, NO, NO],
            ablation_name("lambda 0.7", 0): [NO, NO, NO, NO, YES, YES, YES, YES],
            ablation_name("lambda 0.7", 1): [YES, NO, NO, NO, YES, YES, YES, NO],
        },
    )
    tables = tables_for(context)
    shares, tests = tables["ablation_shares"], tables["ablation_tests"]
    default = row_of(shares, "as configured")
    assert default[1:] == ["75.0", "25.0", "0.0", "0.0", "25.0", "25.0", "25.0"]
    assert row_of(shares, "lambda 0.7")[-2:] == ["50.0", "50.0"]
    assert row_of(shares, BASE)[-3:] == ["12.5", "-", "-"]
    # Against the base: scenes 2 and 3 won by half of the seeds, none lost: 2 of 2, p 1/2.
    assert row_of(tests, "as configured")[3:5] == ["2 / 0", "0.5000"]
    assert row_of(tests, "as configured")[5:] == ["-", "-", "-"]
    # Against the default: scenes 5 to 8 won, 1 to 3 lost; against the base: 4 won, 1 lost.
    row = row_of(tests, "lambda 0.7")
    assert row[1] == BASE
    assert row[3:5] == ["4 / 1", f"{2 * (1 + 5) / 32:.4f}"]
    assert row[6:] == ["4 / 3", "1.0000"]
    assert row[2].startswith("+37.5 (")
    assert row[5].startswith("+25.0 (")


def test_each_base_is_listed_and_compared_with_its_own_settings(tmp_path: Path) -> None:
    varied = {"lambda 0.7": {"reward_cap": 0.7}, "guided": {"true_cfg": 2.0}}
    context = finished_run(tmp_path, ablation_scenes=1, ablations=varied)
    write_ablations(
        context,
        {
            "base, true_cfg 2": [YES, YES, YES, NO],
            ablation_name("guided", 0): [YES, YES, YES, YES],
        },
    )
    tables = tables_for(context)
    shares, tests = tables["ablation_shares"], tables["ablation_tests"]
    assert [row_of(shares, name)[5] for name in (BASE, "base, true_cfg 2")] == ["0.0", "75.0"]
    assert row_of(tests, "guided")[1:5] == [
        "base, true_cfg 2",
        "+25.0 (-24.0 to +74.0)",
        "1 / 0",
        "1.0000",
    ]
    assert row_of(tests, "guided")[5:] == ["-"] * 3, "its images differ by sampling alone"
    assert row_of(tests, "lambda 0.7")[1] == BASE
    line = line_of(text_for(context), "- **Does any of 1 settings matter?**")
    assert line.endswith("With p < 0.0500 for each: none that so few scenes could show.")


def test_models_for_one_task_are_measured_on_that_task(tmp_path: Path) -> None:
    context = finished_run(tmp_path, ablation_scenes=1)
    usable = {}
    for index, task in enumerate(TASKS):
        # Right on its own scene in the first two tasks, and always wrong about the others.
        is_right = [(k == index) == (index < 2) for k in range(len(TASKS))]
        usable[ablation_name(f"only {task}", 0)] = is_right
    write_ablations(context, usable)
    table = tables_for(context)["single_task_policies"]
    assert [row_of(table, task)[2] for task in TASKS] == ["100.0", "100.0", "0.0", "0.0"]
    assert row_of(table, TOGETHER)[1:3] == ["0.0", "50.0"]
    assert row_of(table, TOGETHER)[4] == "2 / 0"


def test_baselines_are_compared_on_the_same_scenes(tmp_path: Path) -> None:
    context = finished_run(tmp_path, test_scenes=2)
    write_usable(context, FIXED, [YES] * 6 + [NO, NO])
    write_usable(context, SUPERVISED, [NO] * 6 + [YES, YES])
    for index, task in enumerate(TASKS):
        write_usable(context, f"{SUPERVISED}-{task}", [k // 2 == index for k in range(8)])
    comparisons = measured_numbers(context)["comparisons"]
    changes = comparisons[FIXED][SUPERVISED]
    assert {name: (c["won"], c["lost"]) for name, c in changes.items()} == {
        **{"fill": (2, 0), "extend": (2, 0), "remove": (2, 0)},
        **{"text": (0, 2), "all": (6, 2)},
    }
    total = changes["all"]
    assert total["p"] == pytest.approx(2 * (1 + 8 + 28) / 256)
    # Every model is usable on its own task alone, so that all together always are.
    assert comparisons[SINGLE][SUPERVISED]["all"]["after"] == 1.0
    against_single = comparisons[FIXED][SINGLE]["all"]
    assert (against_single["won"], against_single["lost"]) == (0, 2)
    row = row_of(tables_for(context)["comparisons"], "alg. 1", "supervised, one for all")
    assert row[3:6] == ["6 / 2", f"{total['p']:.4f}", "2 / 0 (p 0.5000)"]
    assert comparisons[DYNAMIC][BEST]["all"]["outcome"] == "equal"


def point(step: int, reward: float, won: int, lost: int, p: float) -> dict[str, Any]:
    return {"step": step, "reward": reward, "usable": 0.5, "won": won, "lost": lost, "p": p}


@pytest.mark.parametrize(
    ("monitored", "report"),
    [
        ({"complaint": None}, "no complaint"),
        ({"complaint": "brightness has moved by +0.20"}, "brightness has moved by +0.20"),
        ({}, "not evaluated"),
    ],
    ids=["fine", "drifted", "not-evaluated"],
)
def test_parting_is_reported_with_its_numbers_and_the_monitors(
    monitored: dict[str, Any], report: str, tmp_path: Path
) -> None:
    context = finished_run(tmp_path)
    points = [point(0, 0.5, 0, 0, 1.0), point(15, 0.6, 1, 2, 1.0)]
    parting = point(30, 0.7, 2, 20, 0.0001) | monitored
    context.write(HACK_RUNS[MAIN_JUDGE], {"points": [*points, parting], "parting": parting})
    context.write(HACK_RUNS[NAIVE_JUDGE], {"points": [*points, parting], "parting": None})
    text = text_for(context)
    line = line_of(text, "Reward and oracle part at step 30: reward 0.700 after 0.500")
    assert "2 scenes won and 20 lost (p = 0.0001)" in line
    assert line.endswith(f"The monitors there: {report}.")
    assert "lost than won with p < 0.0250." in text, "two measured steps share 0.05"
    assert "at the end (step 30, p = 0.0001)" in line_of(text, "- **Reward hacking against the n")


def test_hacked_images_are_of_the_step_where_they_part(tmp_path: Path) -> None:
    context = finished_run(tmp_path)
    judge, naive = HACK_RUNS[MAIN_JUDGE], HACK_RUNS[NAIVE_JUDGE]
    parting = point(2, 0.7, 0, 9, 0.0)
    points = [point(0, 0.5, 0, 0, 1.0), parting | {"evaluation": 0.8125, "complaint": None}]
    for name in (judge, naive):
        context.write(name, {"points": points, "parting": parting})
    results = context.folder / "policies" / naive / "results"
    results.mkdir()
    (results / "step-000002.safetensors").touch()
    assert hacked_result(context, naive) == (results / "step-000002.safetensors", 2, True)
    path, step, has_parted = hacked_result(context, judge)  # whose weights were not saved
    assert (path.name, step, has_parted) == ("adapter.safetensors", 4, False)
    text = text_for(context)
    assert "that against the judge at step 4 (the end of the run)," in text
    assert "that against the naive judge at step 2 (where they part)." in text
    assert row_of(tables_for(context)["hacking_judge"], "2")[2] == "0.812"


def test_the_budget_is_what_was_done_and_not_what_was_planned(tmp_path: Path) -> None:
    context = finished_run(tmp_path)
    drift = {"brightness": 0.3, "saturation": 0.0, "high_frequency": 1.0, "diversity": 1.0}
    drifted = {f"drift.{name}": value for name, value in (drift | {"outside": 0.0}).items()}
    run = context.folder / "policies" / FIXED
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2} | drifted) + "\n"
    )
    names = [*ablation_runs(context.config), *HACK_RUNS.values()]
    stages = {name: {"cpu_seconds": 30.0} for name in names} | {FIXED: {"cpu_seconds": 90.0}}
    numbers = numbers_for(context) | {"budget": training_numbers.budget_numbers(context, stages)}
    tables = report_tables(numbers)
    models, ablations = tables["models_budget"], tables["others_budget"]
    # Two of four planned steps, of four edits each; the file still holds the weights of step 4.
    row = row_of(models, "alg. 1")
    assert row[1:6] == ["the judge", "2", "4", "4", "8"]
    assert row[8:] == ["1.5", "stopped early: brightness has moved by +0.30"]
    assert row_of(models, "alg. 2")[8:] == ["-", "-"]
    assert row_of(models, "supervised, fill only")[1] == "true images"
    note = row_of(models, "best of 2 by the judge")[-1]
    assert "for each of the 4 scenes per task 2 images and 1 comparisons" in note
    assert row_of(ablations, "against the naive judge (section 5)")[1] == "the naive judge"
    assert row_of(ablations, "as configured")[2] == "1"


def test_commits_and_hours_are_those_of_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = finished_run(tmp_path)
    monkeypatch.setattr(training_numbers, "commit", lambda: "c")
    stages = {
        "x": {"seconds": 3600.0, "cpu_seconds": 1800.0, "commit": "a"},
        "y": {"seconds": 7200.0, "cpu_seconds": 5400.0, "commit": "b"},
        "z": {"seconds": 0.0, "cpu_seconds": 0.0, "commit": "b"},
    }

    def text(stages: dict[str, dict[str, Any]]) -> str:
        run = training_numbers.run_numbers(context.config, stages)
        return render(numbers_for(context) | {"run": run}, {})

    complete = text(stages)
    assert "a (1 stages), b (2 stages)" in complete
    assert "written at commit c" in complete
    assert "2.00 core-hours" in complete
    assert "3.00 hours; up to 2 ran side by side" in complete
    assert "`y`, took 120.0 minutes" in complete
    monkeypatch.setattr(training_numbers, "commit", lambda: "a")
    assert "written at" not in text({"x": stages["x"]})
    assert "written at" in text({})


def test_rewarded_cells_are_reported_even_if_there_are_none(tmp_path: Path) -> None:
    policy = quick(tmp_path).policy | {"min_judge_accuracy": 0.7}
    context = finished_run(tmp_path, policy=policy)
    text = text_for(context)
    assert "min_judge_accuracy (0.7) admits 2 of " in text
    assert "Nothing is learned of extend, text, whose" in text
    assert "- fill, aesthetics is left out" in text
    report = judge_folder(context.config, MAIN_JUDGE) / "report.json"
    report.write_text(report.read_text().replace("0.75", "0.5"))
    assert "min_judge_accuracy (0.7) admits nothing." in text_for(context)


def test_green_frames_are_around_usable_images(tmp_path: Path) -> None:
    context = finished_run(tmp_path, test_scenes=2, sheet_scenes=2)
    write_usable(context, FIXED, [YES, NO, *[NO] * 6])
    write_usable(context, DYNAMIC, [YES, YES, *[NO] * 6])
    sheets = _draw_sheets(context)
    assert list(sheets) == [f"sheet-{task}" for task in TASKS]
    frames = {}
    for task, sheet in zip(TASKS, sheets.values(), strict=True):
        # Eight cells of 160 pixels, 4 pixels apart: two scenes of source, base, alg. 1 and alg. 2.
        corners = [sheet[6, 6 + 164 * column] for column in range(8)]
        frames[task] = [k for k, colour in enumerate(corners) if not bool((colour == 1).all())]
    assert frames == {"fill": [2, 3, 7], "extend": [], "remove": [], "text": []}


def test_photographs_are_named_with_their_licence_and_tested_edit_by_edit(tmp_path: Path) -> None:
    context = finished_run(tmp_path)
    photo = next(p for p in PHOTOGRAPHS if p.is_held_out)
    good, bad = {"seam": 0.01, "tone": 0.01, "texture": None}, {"seam": 0.5, "tone": 0.01}
    numbers = {}
    for name, edits in ((FIXED, [good, good, good]), (DYNAMIC, [bad, bad, good])):
        rows = [
            Row(
                key=str(k),
                condition=str(k),
                task="remove",
                images={"model": "a", "baseline": "b"},
                measures={"model": dict(measures), "baseline": dict(good if k == 2 else bad)},
            )
            for k, measures in enumerate(edits)
        ]
        folder = context.result(f"photos-{name}").with_suffix("")
        folder.mkdir(parents=True)
        lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        (folder / "results.jsonl").write_text(lines)
        numbers[name] = Report(config=EvalConfig(), rows=tuple(rows)).numbers()
    files = [photo.file, "mine.jpg"]
    context.write("photos", {"crops": 3, "files": files, "models": numbers})
    table = tables_for(context)["photographs"]
    sound = row_of(table, "remove", "alg. 1")[2:6]
    assert sound == ["3", "100.0 (43.9-100.0)", "2 / 0", "0.5000"]
    assert row_of(table, "remove", "alg. 2")[4] == "0 / 0"
    assert row_of(table, "remove", "base")[3:6] == ["33.3 (6.1-79.2)", "-", "-"]
    assert row_of(table, "remove", "alg. 1")[-1] == "-", "no texture is known"
    text = text_for(context)
    assert f"- {photo.file}: {photo.package}, {photo.licence}" in text
    assert "- mine.jpg: not in the repository's list" in text
    line = line_of(text, "- **Photographs: does alg. 1 give more sound results than the base?**")
    assert "no difference that 3 edits could show" in line


def test_the_whole_report_is_there_where_nothing_is_usable_and_tables_are_empty(
    tmp_path: Path,
) -> None:
    context = finished_run(tmp_path)
    text = text_for(context, **{"sheet-fill": "x.png"})
    assert not re.search(r"\bnan\b|None|[{}]", text)
    assert text.index("## Results") < text.index("## The toy world") < text.index("## 1.")
    assert EMPTY_TABLE in text, "of the dimensions"
    for rows in tables_for(context).values():
        assert len({len(row) for row in rows}) == 1
        assert len(rows) == 1 or f"| {' | '.join(rows[-1])} |" in text
    assert "alg. 1: equal in each of 16 scenes" in text
    assert "fill:\n\n![sheet fill](x.png)" in text
    # A task that no scene is of, and votes and reports without any entry.
    for name in (MAIN_JUDGE, NAIVE_JUDGE):
        context.write(name, {"report": {"cells": {}, "calibration": []}, "kinds_of_pairs": {}})
    ablations = context.read("ablations")
    del ablations[ablation_name("only text", 0)], ablations[ablation_name("lambda 0.7", 0)]
    context.write("ablations", ablations)
    usability = context.read("usability")
    for tasks in usability.values():
        del tasks["text"]
    context.write("usability", usability)
    assert "as configured" in text_for(context)
