"""The reproduction: its plan, its stages through any stop, and all of it with the least budgets."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.task import Task
from onereward.lab.base_model.photographs import PHOTOGRAPHS
from onereward.lab.reproduce import __main__ as runner
from onereward.lab.reproduce.config import ReproduceConfig
from onereward.lab.reproduce.judge_stages import MAIN_JUDGE, NAIVE_JUDGE, run_name
from onereward.lab.reproduce.measurements import BASE, _parting, sampled_base
from onereward.lab.reproduce.photos import photo_stage, reset_photo_stage, usable_photographs
from onereward.lab.reproduce.policies import ablation_runs, supervised_runs
from onereward.lab.reproduce.report import measured_numbers
from onereward.lab.reproduce.report.report_tables import report_tables
from onereward.lab.reproduce.stage import Context, Stage
from onereward.reward.report import wilson_interval
from onereward.training.data.conditions import EditDataset, save_image
from onereward.training.runs.hosts import Stopped
from support.machine import ROOT
from support.reproduction import FULL, QUICK, context_for, quick

JUDGES = (MAIN_JUDGE, NAIVE_JUDGE)


@pytest.mark.parametrize("path", [QUICK, FULL], ids=lambda path: path.stem)
def test_every_stage_can_run_when_those_before_it_have(path: Path) -> None:
    stages = runner.all_stages(ReproduceConfig.load(path))
    finished: set[str] = set()
    for stage in stages:
        assert set(stage.needs) <= finished, stage.name
        assert stage.name not in finished
        finished.add(stage.name)


def test_the_quick_run_says_what_it_is_and_the_full_one_is_the_documented_one() -> None:
    assert "prove nothing" in ReproduceConfig.load(QUICK).note
    full = ReproduceConfig.load(FULL)
    assert not full.note
    assert full.report == "lab/reproduce/results/README.md"
    assert full.workers * full.hours <= 2 * 8
    assert full.stage_minutes <= 60


def test_the_naive_judge_is_the_same_up_to_the_first_difference() -> None:
    config = ReproduceConfig.load(FULL)
    names = [[run_name(config, judge, k) for k in range(len(config.judge))] for judge in JUDGES]
    differ = [
        config.judge_config(k, Path("run"), None, 1.0)
        != config.judge_config(k, Path("run"), None, 1.0, is_naive=True)
        for k in range(len(config.judge))
    ]
    first = differ.index(True)
    assert names[0][:first] == names[1][:first]
    assert not set(names[0][first:]) & set(names[1][first:])


def test_baselines_take_as_many_steps_and_single_tasks_together_as_many_as_all() -> None:
    config = ReproduceConfig.load(FULL)
    judge = Path("judge")
    steps = config.policy_config("any", judge, 1.0, {}).steps
    for changes in supervised_runs(config).values():
        assert config.policy_config("any", None, 1.0, changes).steps == steps
    runs = ablation_runs(config)
    assert {run["seed"] for run in runs.values()} == set(config.ablation_seeds)
    first = [r for name, r in runs.items() if name.endswith("seed-0")]
    single = [r["steps"] for r in first if "weight_fill" in r]
    (whole,) = {r["steps"] for r in first if "weight_fill" not in r}
    assert len(single) == len(Task)
    assert sum(single) == pytest.approx(whole, abs=len(Task))
    assert whole == round(config.ablation_share * steps)
    # A warm-up that stayed as long would be most of a short run.
    full = config.policy_config("any", judge, 1.0, {})
    for run in first:
        assert run["warmup_steps"] / run["steps"] <= full.warmup_steps / steps + 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": {"steps": 3, "colour": 1}}, "unknown settings ['colour']"),
        ({"hack": {"min_judge_accuracy": 2.0}}, "min_judge_accuracy is 2.0"),
        ({"judge": ()}, "judge has no stages"),
        ({"judge": ({"stage": "vqa"},), "judge_start": ""}, "no stage that compares"),
        ({"judge": ({"stage": "compare"}, {"stage": "vqa"})}, "vqa comes first"),
        ({"judge_start": ""}, "give one of them"),
        ({"ablations": {"x": {"reward_cap": 3.0}}}, "reward_cap is 3.0"),
        ({"best_of": 0}, "best_of is 0"),
        ({"ablation_seeds": ()}, "ablation_seeds is empty"),
    ],
)
def test_a_plan_that_cannot_end_is_refused_at_the_start(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        quick(tmp_path, **changes)


def test_work_of_another_plan_is_refused(tmp_path: Path) -> None:
    plan = quick(tmp_path)
    plan.claim_folder()
    replace(plan, hours=1.0, workers=0).claim_folder()
    with pytest.raises(ValueError, match="a plan with other seed, margin"):
        replace(plan, seed=1, margin=0.1).claim_folder()


def stage(name: str, needs: tuple[str, ...] = (), times: int = 1, fails: bool = False) -> Stage:
    """A stage that is done after so many calls; every call leaves a line."""

    def work(context: Context) -> bool:
        path = context.folder / "calls"
        with path.open("a") as file:
            file.write(f"{name}\n")
        if fails and not (context.folder / "mended").exists():
            raise ValueError("broken")
        return path.read_text().split().count(name) >= times

    return Stage(name=name, work=work, needs=needs)


@pytest.mark.parametrize("workers", [0, 2])
def test_stages_wait_for_their_needs_and_are_taken_up_again(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_for(quick(tmp_path, workers=workers))
    stages = [stage("a", times=2), stage("b", ("a",)), stage("c", ("a",)), stage("d", ("b", "c"))]
    monkeypatch.setattr(runner, "all_stages", lambda _: stages)
    monkeypatch.setattr(runner, "write_report", lambda *_: Path("written"))
    monkeypatch.setattr(runner, "_import_slow_libraries", lambda: None)
    monkeypatch.setattr(runner, "POLL_S", 0.01)
    assert runner.reproduce(context) == Path("written")
    calls = (context.folder / "calls").read_text().split()
    assert calls[:2] == ["a", "a"]
    assert sorted(calls[2:4]) == ["b", "c"]
    assert calls[4:] == ["d"]
    assert runner.reproduce(context) == Path("written")
    assert len((context.folder / "calls").read_text().split()) == 5
    late = context_for(replace(context.config, hours=-1.0, run_folder=str(tmp_path / "late")))
    assert runner.reproduce(late) is None


def test_a_stage_that_fails_is_named_and_goes_on_when_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_for(quick(tmp_path, workers=2))
    monkeypatch.setattr(runner, "all_stages", lambda _: [stage("a"), stage("b", ("a",), 1, True)])
    monkeypatch.setattr(runner, "write_report", lambda *_: Path("written"))
    monkeypatch.setattr(runner, "_import_slow_libraries", lambda: None)
    with pytest.raises(RuntimeError, match=r"stage b failed .*b\.log says why"):
        runner.reproduce(context)
    assert "ValueError: broken" in (context.folder / "logs" / "b.log").read_text()
    (context.folder / "mended").touch()
    assert runner.reproduce(context) == Path("written")


def test_a_stop_ends_stages_at_once_and_leaves_them_to_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a stage that never asks whether it should stop."""
    context = context_for(quick(tmp_path, workers=2))

    def work(context: Context) -> bool:
        (context.folder / "begun").touch()
        signal.pause()
        return True

    endless = Stage(name="endless", work=work)
    monkeypatch.setattr(runner, "all_stages", lambda _: [endless])
    monkeypatch.setattr(runner, "_import_slow_libraries", lambda: None)
    monkeypatch.setattr(runner.time, "sleep", lambda _: stop_when_begun())

    def stop_when_begun() -> None:
        if (context.folder / "begun").exists():
            context.host.stop()

    with pytest.raises(Stopped):
        runner.reproduce(context)
    assert not endless.is_done(context.config)
    assert (context.folder / "stages" / "endless.part").exists()


def point(step: int, reward: float | None, won: int, lost: int, p: float) -> dict[str, Any]:
    return {"step": step, "reward": reward, "won": won, "lost": lost, "p": p}


def test_reward_and_oracle_part_where_one_rises_and_the_other_falls() -> None:
    start, fine = point(0, 0.5, 0, 0, 1.0), point(2, 0.5, 3, 1, 0.6)
    assert _parting([start, fine, point(4, 0.6, 9, 1, 0.02)]) is None
    assert _parting([start, fine, point(4, 0.4, 1, 9, 0.02)]) is None
    assert _parting([start, fine, point(4, 0.6, 1, 9, 0.04)]) is None, "two points share 0.05"
    parted = point(4, 0.6, 1, 9, 0.01)
    assert _parting([start, fine, parted, point(6, 0.7, 0, 20, 0.0)]) is parted
    early = point(2, 0.6, 1, 9, 0.02)
    assert _parting([start, early, point(4, 0.6, 0, 20, 0.0)]) is early
    assert _parting([point(0, None, 0, 0, 1.0), early]) is None


def test_what_is_sampled_otherwise_is_set_against_a_base_that_is_too() -> None:
    config = ReproduceConfig.load(FULL)
    runs = {name: run for name, run in ablation_runs(config).items() if name.endswith("seed-0")}
    bases = {name: sampled_base(config, run) for name, run in runs.items()}
    different = {name: base for name, base in bases.items() if base != BASE}
    assert different == {"ablation-true-guidance-2-seed-0": "base, true_cfg 2"}


def test_photographs_that_come_late_are_taken_up(tmp_path: Path) -> None:
    context = context_for(quick(tmp_path))
    marker = photo_stage().marker(context.config)
    marker.parent.mkdir(parents=True)
    for crops, stays in ((0, False), (2, True)):
        marker.touch()
        context.write("photos", {"crops": crops})
        reset_photo_stage(context)
        assert marker.exists() is stays


def test_photographs_that_were_learned_from_are_left_out(tmp_path: Path) -> None:
    trained_on = next(p.file for p in PHOTOGRAPHS if not p.is_held_out)
    held_out = next(p.file for p in PHOTOGRAPHS if p.is_held_out)
    for name in (trained_on, "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds no photographs"):
        usable_photographs(tmp_path)
    for name in (held_out, "mine.JPG"):
        (tmp_path / name).touch()
    assert {path.name for path in usable_photographs(tmp_path)} == {held_out, "mine.JPG"}


@pytest.mark.slow
def test_everything_runs_and_measuring_again_gives_the_same(tmp_path: Path) -> None:
    photos, fill = tmp_path / "photos", tmp_path / "fill"
    photos.mkdir()
    shutil.copytree(ROOT / "assets" / "fill", fill)
    recipe = json.loads((fill / "recipe.json").read_text())
    (fill / "recipe.json").write_text(json.dumps(recipe | {"steps": 2}))
    least = ReproduceConfig.load(QUICK)
    noise = torch.rand(80, 96, 3, generator=torch.Generator().manual_seed(0))
    save_image(photos / "noise.png", noise)
    config = quick(
        tmp_path,
        workers=0,
        fill_folder=str(fill),
        judge_start=str(ROOT / "assets" / "judge"),
        pool=least.pool | {"steps": (1, 1)},
        policy=least.policy | {"steps": 1, "batch_size": 2, "sampling_steps": 2, "eval_every": 1},
        hack=least.hack | {"steps": 1, "eval_every": 1},
        conditions=24,
        test_scenes=2,
        ablation_scenes=1,
        hack_scenes=1,
        sheet_scenes=1,
        photo_crops=1,
    )
    context = context_for(config, photos)
    path = runner.reproduce(context)
    assert path is not None
    text = path.read_text()
    assert text.startswith(f"**{config.note}**")
    images = re.findall(r"\]\(([^)]+\.png)\)", text)
    assert len(images) == len(set(images)) >= 9
    assert all((path.parent / name).is_file() for name in images)
    truths = EditDataset(config.folder / "truths")
    assert all(c.result_file_name for c in truths.conditions)
    usability = context.read("usability")
    low, high = wilson_interval(usability["base"]["all"]["share"], 2 * len(Task))
    assert usability["base"]["all"]["interval"] == [low, high]
    assert runner.measure_again(context) == []
    values = context.read("usability")
    values["base"]["fill"]["share"] = 0.123
    context.write("usability", values)
    numbers = json.loads((path.parent / "numbers.json").read_text())
    tables = report_tables(numbers | {"measured": measured_numbers(context)})
    assert tables["usability"][1][1].startswith("12.3 ")
    assert json.loads(context.result("usability").read_text())["base"]["fill"]["share"] == 0.123
