"""Calibrating a judge as a job, and what training makes of calibrated judges and ensembles."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onereward.fill.task import Dimension, Task
from onereward.reward.calibration import FILE_NAME, cell_name, log_loss, read_calibration
from onereward.reward.ensemble import EnsembleJudge
from onereward.reward.judge import JudgeConfig
from onereward.reward.preference import PreferenceSet
from onereward.reward.report import Answer, make_report, read_report, write_report
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.judge.calibrate import JOB, CalibrateConfig, CalibrateJob
from onereward.training.judge.report import ReportConfig, ask_held_out
from onereward.training.policy.reward_cells import reward_cells_of
from support import machine
from support.recording_host import RecordingHost

PAIRS = machine.ROOT / "assets" / "examples" / "toy-preferences"
GOOD, BAD = (Task.FILL, Dimension.STRUCTURE), (Task.FILL, Dimension.AESTHETICS)


def test_job_writes_a_calibration_that_is_fitted_to_the_judge_s_own_answers(tmp_path: Path):
    host = RecordingHost()
    settings = CalibrateConfig(split="test_and_dev", min_pairs=5)
    job = CalibrateJob(
        preferences_folder=str(PAIRS), report_folder=str(tmp_path), settings=settings
    )
    result = job.run(host)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {FILE_NAME, JOB, "report.json", "report.md", "report.png"}
    assert CalibrateJob.load(tmp_path / JOB) == job
    # No other temperature makes the judge's answers likelier.
    judge = QwenJudge(JudgeConfig(), torch.device("cpu"))
    config = ReportConfig(split=settings.split)
    answers = ask_held_out(judge, PreferenceSet(PAIRS), config, host)
    calibration = read_calibration(tmp_path)
    assert calibration.judge == judge.identity
    assert calibration.view == "full_image"

    def loss(temperature: float) -> float:
        p = torch.tensor([[a.winner_first, a.loser_first] for a in answers], dtype=torch.float64)
        q = torch.sigmoid(torch.logit(p) / temperature)
        return float(-(q[:, 0].log() + (1 - q[:, 1]).log()).mean() / 2)

    best = loss(calibration.temperature)
    for factor in (0.9, 1.1):
        if 0.05 <= calibration.temperature * factor <= 20:
            assert loss(calibration.temperature * factor) >= best - 1e-9
    assert loss(1.0) == pytest.approx(log_loss(answers), abs=1e-4)
    assert f"{log_loss(answers):.3f}" in result.text
    assert all(cell_name(a.criterion) in result.text for a in answers)
    assert result.judge.folder == tmp_path
    assert read_report(tmp_path) == result.report


def test_report_of_every_member_of_an_ensemble_counts(tmp_path: Path):
    def answers(cell: Any, right: int, wrong: int) -> list[Answer]:
        pairs = [(0.9, 0.1)] * right + [(0.1, 0.9)] * wrong
        return [Answer(criterion=cell, winner_first=a, loser_first=b) for a, b in pairs]

    judges = []
    for name, wrong in (("a", 2), ("b", 9)):
        folder = tmp_path / name
        folder.mkdir()
        write_report(folder, make_report(answers(GOOD, 18, 2) + answers(BAD, 20 - wrong, wrong)))
        judges.append(SimpleNamespace(folder=folder, notes={}, label=name))
    config: Any = SimpleNamespace(needs_judge=True, min_judge_accuracy=0.75)
    assert reward_cells_of(config, judges[:1]).cells == {GOOD, BAD}
    assert reward_cells_of(config, [EnsembleJudge(judges)]).cells == {GOOD}
