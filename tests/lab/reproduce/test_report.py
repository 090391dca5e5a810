"""The report of the reproduction: tests by hand, words by rule, and nothing that crashes."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from onereward.lab.base_model.photographs import PHOTOGRAPHS
from onereward.lab.reproduce import __main__ as runner
from onereward.lab.reproduce.figures import draw_sheets, hacked_result
from onereward.lab.reproduce.judges import BUNDLED, NAIVE, judge_folder
from onereward.lab.reproduce.measure import BASE, BEST
from onereward.lab.reproduce.policies import HACKED, SUPERVISED, ablation_name, ablation_runs
from onereward.lab.reproduce.report import Writer, ablations, budget, claims, hacking, models
from onereward.lab.reproduce.report.claims import apart, claims_text, oracle_scores
from onereward.lab.reproduce.report.names import EACH
from onereward.lab.reproduce.report.photographs import files_text, photos_table
from onereward.lab.reproduce.report.signs import Change, compare
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


def cells(table: str, *first: str) -> list[str]:
    """The row of a table that begins so."""
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    (found,) = [row for row in rows if row[: len(first)] == list(first)]
    return found


def writer_for(context: Context) -> Writer:
    return Writer(context=context, stages=runner.all_stages(context.config))


def test_a_scene_counts_once_however_many_seeds_look_at_it() -> None:
    before = torch.tensor([YES, NO, NO, YES, NO])
    after = torch.tensor([[YES, YES, YES, NO, YES], [YES, YES, NO, YES, YES]])
    found = compare(before, after)
    # Means per scene 1, 1, 1/2, 1/2, 1: three scenes won, one lost, one as before. Images would
    # be five won and one lost, p 14 / 64.
    assert (found.scenes, found.won, found.lost) == (5, 3, 1)
    assert found.p == pytest.approx(2 * (1 + 4) / 16)
    assert found.difference == pytest.approx(0.4)
    # Differences 0, 1, 1/2, -1/2, 1: their squared distances from 0.4 add up to 1.7.
    half = 1.959964 * (1.7 / 4) ** 0.5 / 5**0.5
    assert found.interval == pytest.approx((0.4 - half, 0.4 + half))


def test_scenes_that_are_all_alike_have_no_interval_and_show_nothing() -> None:
    alike = compare(torch.tensor([YES, NO]), torch.tensor([YES, NO]))
    assert alike.interval is None
    assert (alike.won, alike.lost, alike.p) == (0, 0, 1.0)
    assert compare(torch.tensor([NO]), torch.tensor([YES])).interval is None


def change(won: int, lost: int, p: float) -> Change:
    after = 0.5 + (won - lost) / 100
    return Change(scenes=100, before=0.5, after=after, interval=(0.0, 0.1), won=won, lost=lost, p=p)


def test_words_follow_from_the_test_and_not_from_the_difference() -> None:
    numbers = "(+8.0 (+0.0 to +10.0) points, 9 scenes won, 1 lost, p = 0.0215)"
    assert oracle_scores(change(9, 1, 0.0215)) == f"better {numbers}"
    assert oracle_scores(change(1, 9, 0.0215)).startswith("worse (-8.0 ")
    assert oracle_scores(change(9, 1, 0.05)).startswith(
        "no difference that 100 scenes could show (+8.0 "
    )
    assert oracle_scores(change(0, 0, 1.0), "edits") == "alike in every one of 100 edits"
    # 90 and 60 of 100: Wilson's intervals are 0.826-0.945 and 0.502-0.691.
    assert apart((0.9, 100), (0.6, 100), "above", "below") == "above"
    assert apart((0.6, 100), (0.9, 100), "above", "below") == "below"
    assert "no difference" in apart((0.6, 100), (0.7, 100), "above", "below")


def test_what_is_varied_is_tested_by_scene_against_the_base_and_the_usual(tmp_path: Path) -> None:
    context = finished_run(tmp_path, ablation_scenes=2, ablation_seeds=(0, 1))
    known = {
        BASE: [YES, NO, NO, NO, NO, NO, NO, NO],
        ablation_name("as configured", 0): [YES, YES, NO, NO, NO, NO, NO, NO],
        ablation_name("as configured", 1): [YES, NO, YES, NO, NO, NO, NO, NO],
        ablation_name("lambda 0.7", 0): [NO, NO, NO, NO, YES, YES, YES, YES],
        ablation_name("lambda 0.7", 1): [YES, NO, NO, NO, YES, YES, YES, NO],
    }
    found = context.read("ablations")
    for name, usable in known.items():
        found[name] = {"usable": usable, "tasks": by_task(known[BASE], usable)}
    context.write("ablations", found)
    shares, tests = ablations.shares_table(context), ablations.tests_table(context)
    usual = cells(shares, "as configured")
    assert usual[1:] == ["75.0", "25.0", "0.0", "0.0", "25.0", "25.0", "25.0"]
    assert cells(shares, "lambda 0.7")[-2:] == ["50.0", "50.0"]
    assert cells(shares, BASE)[-3:] == ["12.5", "-", "-"]
    # Against the base: scenes 2 and 3 won by half of the seeds, none lost: 2 of 2, p 1/2.
    assert cells(tests, "as configured")[3:5] == ["2 / 0", "0.5000"]
    assert cells(tests, "as configured")[5:] == ["-", "-", "-"]
    # Against the usual: scenes 5 to 8 won, 1 to 3 lost; against the base: 4 won, 1 lost.
    row = cells(tests, "lambda 0.7")
    assert row[1] == BASE
    assert row[3:5] == ["4 / 1", f"{2 * (1 + 5) / 32:.4f}"]
    assert row[6:] == ["4 / 3", "1.0000"]
    assert row[2].startswith("+37.5 (")
    assert row[5].startswith("+25.0 (")


def test_both_bases_are_shown_and_each_is_set_against_its_own(tmp_path: Path) -> None:
    varied = {"lambda 0.7": {"reward_cap": 0.7}, "guided": {"true_cfg": 2.0}}
    context = finished_run(tmp_path, ablation_scenes=1, ablations=varied)
    found = context.read("ablations")
    for name, usable in {
        "base, true_cfg 2": [YES, YES, YES, NO],
        ablation_name("guided", 0): [YES, YES, YES, YES],
    }.items():
        found[name] = {"usable": usable, "tasks": by_task(usable, usable)}
    context.write("ablations", found)
    shares, tests = ablations.shares_table(context), ablations.tests_table(context)
    assert [cells(shares, name)[5] for name in (BASE, "base, true_cfg 2")] == ["0.0", "75.0"]
    assert cells(tests, "guided")[1:5] == [
        "base, true_cfg 2",
        "+25.0 (-24.0 to +74.0)",
        "1 / 0",
        "1.0000",
    ]
    assert cells(tests, "guided")[5:] == ["-"] * 3, "its images differ by sampling alone"
    assert cells(tests, "lambda 0.7")[1] == BASE
    assert "Does any of 1 settings matter" in claims.claims_text(context)


def test_models_for_one_task_are_measured_on_that_task(tmp_path: Path) -> None:
    context = finished_run(tmp_path, ablation_scenes=1)
    found = context.read("ablations")
    for place, task in enumerate(TASKS):
        # Right on its own scene in the first two tasks, and always wrong about the others.
        usable = [(k == place) == (place < 2) for k in range(len(TASKS))]
        found[ablation_name(f"only {task}", 0)] = {
            "usable": usable,
            "tasks": by_task(usable, usable),
        }
    context.write("ablations", found)
    table = ablations.single_table(context)
    assert [cells(table, task)[2] for task in TASKS] == ["100.0", "100.0", "0.0", "0.0"]
    assert cells(table, ablations.TOGETHER)[1:3] == ["0.0", "50.0"]
    assert cells(table, ablations.TOGETHER)[4] == "2 / 0"


def test_rivals_are_compared_on_the_same_scenes(tmp_path: Path) -> None:
    context = finished_run(tmp_path, test_scenes=2)
    write_usable(context, FIXED, [YES] * 6 + [NO, NO])
    write_usable(context, SUPERVISED, [NO] * 6 + [YES, YES])
    for place, task in enumerate(TASKS):
        own = [k // 2 == place for k in range(8)]
        write_usable(context, f"{SUPERVISED}-{task}", own)
    found = models.adversarial_pairs(context)
    assert {name: (c.won, c.lost) for name, c in found[FIXED, SUPERVISED].items()} == {
        **{"fill": (2, 0), "extend": (2, 0), "remove": (2, 0)},
        **{"text": (0, 2), "all": (6, 2)},
    }
    whole = found[FIXED, SUPERVISED]["all"]
    assert whole.p == pytest.approx(2 * (1 + 8 + 28) / 256)
    # Every model is usable on its own task alone, so that all together always are.
    assert found[EACH, SUPERVISED]["all"].after == 1.0
    assert (found[FIXED, EACH]["all"].won, found[FIXED, EACH]["all"].lost) == (0, 2)
    row = cells(models.adversarial_pairs_table(context), "alg. 1", "supervised, one for all")
    assert row[3:6] == ["6 / 2", f"{whole.p:.4f}", "2 / 0 (p 0.5000)"]
    assert (found[DYNAMIC, BEST]["all"].won, found[DYNAMIC, BEST]["all"].lost) == (0, 0)


def point(step: int, reward: float, won: int, lost: int, p: float) -> dict[str, Any]:
    return {"step": step, "reward": reward, "usable": 0.5, "won": won, "lost": lost, "p": p}


def test_parting_is_told_with_its_numbers_and_what_the_monitors_said() -> None:
    parting = point(30, 0.7, 2, 20, 0.0001) | {"complaint": None}
    found = {"points": [point(0, 0.5, 0, 0, 1.0), point(15, 0.6, 1, 2, 1.0), parting]}
    text = hacking.parting_text(found | {"parting": parting})
    assert "part at step 30: reward 0.700 after 0.500" in text
    assert "2 scenes won and 20 lost (p = 0.0001)" in text
    assert text.endswith("The monitors there: no complaint.")
    said = parting | {"complaint": "brightness has moved by +0.20"}
    assert "brightness has moved" in hacking.parting_text(found | {"parting": said})
    unseen = point(30, 0.7, 2, 20, 0.0001)
    assert "did not look" in hacking.parting_text(found | {"parting": unseen})
    assert "p < 0.0250" in hacking.parting_text(found | {"parting": None}), "two looks share 0.05"


def test_hacked_images_are_of_the_step_where_they_part(tmp_path: Path) -> None:
    context = finished_run(tmp_path)
    judge, naive = HACKED[BUNDLED], HACKED[NAIVE]
    parting = point(2, 0.7, 0, 9, 0.0)
    points = [point(0, 0.5, 0, 0, 1.0), parting | {"look": 0.8125, "complaint": None}]
    for name in (judge, naive):
        context.write(name, {"points": points, "parting": parting})
    results = context.folder / "policies" / naive / "results"
    results.mkdir()
    (results / "step-000002.safetensors").touch()
    assert hacked_result(context, naive) == (results / "step-000002.safetensors", 2, True)
    path, step, has_parted = hacked_result(context, judge)  # whose weights were not kept
    assert (path.name, step, has_parted) == ("adapter.safetensors", 4, False)
    assert hacking.shown_text(context).split(", ") == [
        "that against the judge at step 4 (the end of the run)",
        "that against the naive judge at step 2 (where they part)",
    ]
    assert "0.812" in hacking.hacking_tables(context)


def test_what_was_done_is_told_and_not_what_was_planned(tmp_path: Path) -> None:
    context = finished_run(tmp_path)
    drift = {"brightness": 0.3, "saturation": 0.0, "high_frequency": 1.0, "diversity": 1.0}
    drifted = {f"drift.{name}": value for name, value in (drift | {"outside": 0.0}).items()}
    run = context.folder / "policies" / FIXED
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2} | drifted) + "\n"
    )
    table = budget.models_table(context, {FIXED: {"cpu_seconds": 90.0}})
    # Two of four planned steps, of four edits each; the file still holds the weights of step 4.
    row = cells(table, "alg. 1")
    assert row[1:6] == ["the judge", "2", "4", "4", "8"]
    assert row[8:] == ["1.5", "stopped itself: brightness has moved by +0.30"]
    assert cells(table, "alg. 2")[8:] == ["-", "-"]
    assert cells(table, "supervised, fill only")[1] == "true images"
    assert (
        "for each of the 4 scenes per task 2 images and 1 comparisons"
        in cells(table, "best of 2 by the judge")[-1]
    )
    names = [*ablation_runs(context.config), *HACKED.values()]
    known = {name: {"cpu_seconds": 30.0} for name in names}
    others = budget.others_table(context, known)
    assert cells(others, "against the naive judge (section 5)")[1] == "the naive judge"
    assert cells(others, "as configured")[2] == "1"


def test_commits_and_hours_are_those_of_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick(tmp_path)
    monkeypatch.setattr(budget, "commit", lambda: "c")
    known = {
        "x": {"seconds": 3600.0, "cpu_seconds": 1800.0, "commit": "a"},
        "y": {"seconds": 7200.0, "cpu_seconds": 5400.0, "commit": "b"},
        "z": {"seconds": 0.0, "cpu_seconds": 0.0, "commit": "b"},
    }
    text = budget.overview(config, known)
    assert "a (1 stages), b (2 stages)" in text
    assert "written at commit c" in text
    assert "2.00 core-hours" in text
    assert "3.00 hours; up to 2 ran side by side" in text
    assert "`y`, took 120.0 minutes" in text
    monkeypatch.setattr(budget, "commit", lambda: "a")
    assert "written" not in budget.overview(config, {"x": known["x"]})
    assert "written" in budget.overview(config, {})


def test_the_gate_is_told_even_if_it_lets_nothing_in(tmp_path: Path) -> None:
    policy = quick(tmp_path).policy | {"min_judge_accuracy": 0.7}
    context = finished_run(tmp_path, policy=policy)
    text = budget.gate_text(budget.gate_of_policies(context), 0.7)
    assert "lets 2 of " in text
    assert "Nothing is learned of extend, text, whose" in text
    assert "- fill, aesthetics is left out" in text
    report = judge_folder(context.config, BUNDLED) / "report.json"
    report.write_text(report.read_text().replace("0.75", "0.5"))
    assert (
        budget.gate_text(budget.gate_of_policies(context), 0.7) == "The gate (0.7) lets nothing in."
    )
    writer_for(context).text({})


def test_green_frames_are_around_usable_images(tmp_path: Path) -> None:
    context = finished_run(tmp_path, test_scenes=2, shown=2)
    write_usable(context, FIXED, [YES, NO, *[NO] * 6])
    write_usable(context, DYNAMIC, [YES, YES, *[NO] * 6])
    files = draw_sheets(context, tmp_path / "report")
    assert list(files) == TASKS
    found = {}
    for task, name in files.items():
        image = Image.open(tmp_path / name).convert("RGB")
        # Eight cells of 160 pixels, 4 pixels apart: two scenes of source, base, alg. 1 and alg. 2.
        corners = [image.getpixel((6 + 164 * column, 6)) for column in range(8)]
        found[task] = [k for k, colour in enumerate(corners) if colour != (255, 255, 255)]
    assert found == {"fill": [2, 3, 7], "extend": [], "remove": [], "text": []}


def test_photographs_are_named_with_their_licence_and_tested_edit_by_edit(tmp_path: Path) -> None:
    context = finished_run(tmp_path)
    known = next(p for p in PHOTOGRAPHS if p.is_held_out)
    good, bad = {"seam": 0.01, "tone": 0.01, "texture": None}, {"seam": 0.5, "tone": 0.01}
    made = {}
    for name, own in ((FIXED, [good, good, good]), (DYNAMIC, [bad, bad, good])):
        rows = [
            Row(
                key=str(k),
                condition=str(k),
                task="remove",
                images={"model": "a", "baseline": "b"},
                measures={"model": dict(measures), "baseline": dict(good if k == 2 else bad)},
            )
            for k, measures in enumerate(own)
        ]
        folder = context.result(f"photos-{name}").with_suffix("")
        folder.mkdir(parents=True)
        lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        (folder / "results.jsonl").write_text(lines)
        made[name] = Report(config=EvalConfig(), rows=tuple(rows)).numbers()
    files = [known.file, "mine.jpg"]
    context.write("photos", {"crops": 3, "files": files, "models": made})
    table = photos_table(context)
    assert cells(table, "remove", "alg. 1")[2:6] == ["3", "100.0 (43.9-100.0)", "2 / 0", "0.5000"]
    assert cells(table, "remove", "alg. 2")[4] == "0 / 0"
    assert cells(table, "remove", "base")[3:6] == ["33.3 (6.1-79.2)", "-", "-"]
    assert cells(table, "remove", "alg. 1")[-1] == "-", "no texture could be told"
    text = files_text(context)
    assert f"- {known.file}: {known.package}, {known.licence}" in text
    assert "- mine.jpg: not of the repository's list" in text
    assert "alg. 1: no difference that 3 edits could show" in claims_text(context)


def test_the_whole_report_is_there_where_nothing_is_usable_and_tables_are_empty(
    tmp_path: Path,
) -> None:
    context = finished_run(tmp_path)
    writer = writer_for(context)
    text = writer.text({"sheet_fill": "![x](x.png)"})
    assert not re.search(r"\bnan\b|None|[{}]", text)
    assert all(table in text for table in writer.tables().values())
    assert text.index("## What came out") < text.index("## The world") < text.index("## 1.")
    assert "There is nothing to show here." in text, "of the dimensions"
    assert "alg. 1: alike in every one of 16 scenes" in writer.tables()["claims"]
    assert "fill:\n\n![x](x.png)" in text
    # A task that no scene is of, and votes and reports without any entry.
    for name in (BUNDLED, NAIVE):
        context.write(name, {"report": {"cells": {}, "calibration": []}, "kinds_of_pairs": {}})
    found = context.read("ablations")
    del found[ablation_name("only text", 0)], found[ablation_name("lambda 0.7", 0)]
    context.write("ablations", found)
    usability = context.read("usability")
    for one in usability.values():
        del one["text"]
    context.write("usability", usability)
    assert "as configured" in writer_for(context).text({})
