"""Jobs around a judge: what is written can be run again, alone or by several processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from onereward import cli
from onereward.fill.config import ModelConfig
from onereward.fill.io.writing import WriteError
from onereward.fill.task import Dimension, Task
from onereward.reward.judge import BUNDLED, BUNDLED_FOLDER, JudgeConfig, judge_folder
from onereward.reward.preference import Preference, PreferenceSet, by_split
from onereward.training import jobs
from onereward.training.data.conditions import save_image
from onereward.training.data.generate import GenerateConfig
from onereward.training.data.label import LabelConfig
from onereward.training.jobs import GenerateJob, LabelJob, ReportJob
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.report import ReportConfig
from onereward.training.judge.train import train_judge
from onereward.training.judge.trainer import JudgeTrainer
from support.bundled_models import BUNDLED as MODEL
from support.bundled_models import bundled_models
from support.judges import make_judge
from support.policy_runs import make_conditions
from support.recording_host import RecordingHost

NUM = 30


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_judge(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of random images of all tasks."""
    folder = tmp_path_factory.mktemp("data")
    preferences, generator = PreferenceSet(folder), torch.Generator().manual_seed(0)
    for number in range(NUM):
        for name in "ab":
            image = torch.rand(32, 32, 3, generator=generator)
            save_image(folder / f"{number}-{name}.png", image)
        task, dimension = (
            (Task.FILL, Dimension.STRUCTURE) if number % 2 else (Task.EXTEND, Dimension.AESTHETICS)
        )
        preferences.add(
            Preference(
                winner_file_name=f"{number}-a.png",
                loser_file_name=f"{number}-b.png",
                task=task,
                dimension=dimension,
                condition=f"condition {number}",
            )
        )
    return folder


def train_config(run: Path, judge: Path, data: Path, **changes: Any) -> JudgeTrainConfig:
    values: dict[str, Any] = {
        "run_folder": str(run),
        "judge_folder": str(judge),
        "preferences_folder": str(data),
        "steps": 2,
        "batch_size": 4,
        "warmup_steps": 1,
        "learning_rate": 1e-2,
        "eval_every": 2,
        "shift": 1,
        "noise": 0.02,
    }
    return JudgeTrainConfig(**values | changes)


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(judge: Path, data: Path, tmp_path: Path) -> None:
    """Under ``accelerate launch``, from the config file that the node writes."""
    single, double = tmp_path / "one", tmp_path / "two"
    once = {"mode": "full", "steps": 1, "eval_every": 1}
    train_judge(train_config(single, judge, data, batch_size=8, **once), RecordingHost())
    (tmp_path / "two.json").write_text(
        train_config(double, judge, data, batch_size=8, **once).to_json()
    )
    launch(tmp_path, "train-judge", tmp_path / "two.json")
    states = [load_file(run / "checkpoint" / "state.safetensors") for run in (single, double)]
    # After one step the optimiser's average is a tenth of the gradient that all have agreed on;
    # its step itself is +-rate however small the gradient, and tells less.
    averages = [
        torch.cat([t.flatten() for k, t in s.items() if "exp_avg." in k + "."]) for s in states
    ]
    assert averages[0].norm() > 1e-3
    assert (averages[1] - averages[0]).norm() < 1e-4 * averages[0].norm()
    records = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (single, double)
    ]
    assert records[0]["accuracy"] == records[1]["accuracy"]
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], abs=2e-4)


@pytest.mark.slow
def test_two_processes_generate_what_one_does(tmp_path: Path) -> None:
    conditions = make_conditions(tmp_path / "conditions", per_task=1)
    settings = GenerateConfig(num_candidates=2, steps=(1, 2))
    model = asdict(ModelConfig(folder=str(MODEL), precision="fp32"))
    jobs = [
        GenerateJob(
            model=model,
            dataset_folder=str(conditions),
            preferences_folder=str(tmp_path / name),
            settings=settings,
        )
        for name in ("one", "two")
    ]
    jobs[0].run(RecordingHost(), models=bundled_models())
    (tmp_path / "generate.json").write_text(jobs[1].to_json())
    launch(tmp_path, "generate", tmp_path / "generate.json")
    single, double = (PreferenceSet(tmp_path / name) for name in ("one", "two"))
    assert single.groups() == double.groups()
    for group in single.groups():
        for name in group.file_names:
            assert single.image(name).read_bytes() == double.image(name).read_bytes()


def launch(folder: Path, command: str, config: Path) -> None:
    """Run a command in two processes on the CPU, with gloo between them."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    how = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    how += ["--dynamo_backend", "no", "--main_process_port", "0"]
    subprocess.run(
        [*launcher, *how, "-m", "onereward", command, str(config)],
        cwd=folder,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=300,
    )


def report_job(judge: Path, data: Path, folder: Path, **settings: Any) -> ReportJob:
    return ReportJob(
        preferences_folder=str(data),
        report_folder=str(folder),
        judge={"folder": str(judge), "precision": "fp32"},
        settings=ReportConfig(split="test_and_dev", **settings),
    )


def test_a_report_counts_what_the_trainer_counts(judge: Path, data: Path, tmp_path: Path) -> None:
    """The report's numbers are those of the judge's own answers, and the same at every run."""
    first = report_job(judge, data, tmp_path / "first").run(RecordingHost())
    report_job(judge, data, tmp_path / "second").run(RecordingHost())
    texts = [(tmp_path / name / "report.json").read_text() for name in ("first", "second")]
    assert texts[0] == texts[1]
    held_out = by_split(PreferenceSet(data).pairs())
    assert sum(c.num_pairs for c in first.cells.values()) == sum(
        len(held_out[name]) for name in ("test", "dev")
    )
    trainer = JudgeTrainer(
        train_config(tmp_path / "run", judge, data, precision="fp32"), RecordingHost()
    )
    with torch.no_grad():
        trainer.judge.component.module.eval()
        answers = [*trainer.answers("test"), *trainer.answers("dev")]
    right = dict.fromkeys(first.cells, 0)
    for answer in answers:
        right[answer.criterion] += (answer.winner_first + 1 - answer.loser_first) / 2 > 0.5
    for cell, group in first.cells.items():
        assert group.accuracy == pytest.approx(right[cell] / group.num_pairs)
    assert {path.name for path in (tmp_path / "first").iterdir()} == {
        *("config.json", "report.json", "report.md", "report.png"),
    }


def test_pairs_of_a_report_can_be_limited(judge: Path, data: Path, tmp_path: Path) -> None:
    few = report_job(judge, data, tmp_path / "few", max_pairs=3).run(RecordingHost())
    assert sum(cell.num_pairs for cell in few.cells.values()) == 3
    with pytest.raises(ValueError, match="choose one of: test, dev"):
        ReportConfig(split="train")
    with pytest.raises(ValueError, match=r"ReportConfig has unknown settings \['colour'\]"):
        ReportJob.from_values(
            {"preferences_folder": "d", "report_folder": "r", "settings": {"colour": "red"}}
        )
    with pytest.raises(ValueError, match="holds no pairs of its test_and_dev split"):
        report_job(judge, tmp_path / "empty", tmp_path / "bad").run(RecordingHost())


def test_a_full_disk_while_collecting_is_named_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = GenerateJob(
        model=asdict(ModelConfig(folder=str(MODEL))),
        dataset_folder=str(make_conditions(tmp_path / "conditions", per_task=1)),
        preferences_folder=str(tmp_path / "data"),
        settings=GenerateConfig(num_candidates=2, steps=(1, 2)),
    )
    num_saved, save = 0, Image.Image.save

    def fill_up(image: Image.Image, file: Path, kind: str, **options: Any) -> None:
        nonlocal num_saved
        num_saved += 1
        if num_saved > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(image, file, kind, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fill_up)
        with pytest.raises(WriteError, match=r"cannot write .*No space left.*free some space"):
            job.run(RecordingHost(), models=bundled_models())
    data = PreferenceSet(tmp_path / "data")
    assert len(data.groups()) == 1
    job.run(RecordingHost(), models=bundled_models())
    whole = replace(job, preferences_folder=str(tmp_path / "whole"))
    whole.run(RecordingHost(), models=bundled_models())
    assert data.groups() == PreferenceSet(tmp_path / "whole").groups()


def test_the_bundled_judge_keeps_its_report(
    judge: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a file of the pack: changed, the pack cannot be updated any more."""
    for bundled in (judge, tmp_path):
        monkeypatch.setattr(jobs, "BUNDLED_FOLDER", bundled.resolve())
        (judge / "report.json").unlink(missing_ok=True)
        host = RecordingHost()
        report_job(judge, data, tmp_path / "report").run(host)
        assert (judge / "report.json").is_file() == (bundled != judge)
        assert any("keeps the report" in line for line in host.lines) == (bundled == judge)


def test_jobs_come_back_from_their_files(tmp_path: Path) -> None:
    examples = (
        GenerateJob(model={"folder": "m"}, dataset_folder="c", preferences_folder="d"),
        LabelJob(preferences_folder="d", judge={}, settings=LabelConfig(margin=0.1)),
        ReportJob(preferences_folder="d", report_folder="r"),
    )
    for job in examples:
        assert type(job).from_json(job.to_json()) == job
    assert ReportJob(preferences_folder="d", report_folder="r").judge == {"folder": BUNDLED}


def test_the_bundled_judge_is_a_folder_or_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert JudgeConfig().folder == BUNDLED
    assert judge_folder("somewhere") == Path("somewhere")
    if BUNDLED_FOLDER.is_dir():
        assert judge_folder(BUNDLED) == BUNDLED_FOLDER
        return
    with pytest.raises(FileNotFoundError, match="not part of this copy of the pack"):
        judge_folder(BUNDLED)
    config = tmp_path / "report.json"
    config.write_text(ReportJob(preferences_folder=str(tmp_path), report_folder="r").to_json())
    assert cli.main(["report", str(config)]) == 1
    assert "not part of this copy of the pack" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "label", "train-judge", "report"])
def test_commands_refuse_bad_configs_with_one_sentence(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, str(tmp_path / "none.json")]) == 1
    assert "there is no config file" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text('{"colour": "red"}')
    assert cli.main([command, str(tmp_path / "bad.json")]) == 1
    error = capsys.readouterr().err
    assert "unknown settings ['colour']" in error
    assert error.count("\n") == 1
