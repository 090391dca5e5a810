"""Judge nodes: calibrate a judge, and take several as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ...fill.io.json_text import label_of
from ...reward.calibrated_judge import CalibratedJudge
from ...reward.calibration import FILE_NAME
from ...reward.ensemble import MEAN, EnsembleConfig, EnsembleJudge
from ...reward.judge import Judge
from ...reward.preference import PreferenceSet
from ...reward.report import read_report
from ...training.jobs import describe_judge
from ...training.judge.calibrate import CalibrateConfig, CalibrateJob, CalibrationResult
from ...training.judge.report import report_image, report_text
from ..comfy_host import JUDGE, ComfyHost, hold
from ..evaluate import REPORTS
from ..inputs import config_inputs, judge_input, output, search_aliases
from ..node import OneRewardNode, given
from ..paths import work_folders
from ..socket_types import JudgeSocket, PreferencesSocket


class OneRewardCalibrateJudge(OneRewardNode):
    """Makes a judge as sure as it is right."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardCalibrateJudge",
            display_name="OneReward Calibrate Judge",
            category="OneReward/judge",
            description="Calibrates a judge (reward model) on held-out pairs, so that it is as "
            "sure as it is right; calibrate judges before they are averaged.",
            **search_aliases("calibration", "temperature scaling", "isotonic regression"),
            inputs=[
                judge_input("The judge to calibrate; it is not changed."),
                work_folders.name_input("output/onereward/judge-reports", "my-judge-calibrated"),
                PreferencesSocket.Input(
                    "preferences",
                    optional=True,
                    tooltip="Labelled pairs, of which a held-out split is used. Not connected: the "
                    "calibration that was saved under this name is used again.",
                ),
                *config_inputs(CalibrateConfig),
            ],
            outputs=[
                output(io.Image, "image", "Table and calibration plot, on pairs left out of it."),
                output(io.String, "text", "Log-loss before and after, in Markdown."),
                output(io.String, "calibration", "The numbers as JSON, as in the file."),
                output(JudgeSocket, "calibrated_judge", "The calibrated judge.", "judge"),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None, **values: Any) -> bool:
        """Refuse before the queue a bad name and what the config refuses."""
        if name is not None:
            work_folders.work_folder(REPORTS, name)
        CalibrateConfig.check(given(values))
        return True

    @classmethod
    def execute(
        cls, judge: Judge, name: str, preferences: PreferenceSet | None = None, **values: Any
    ) -> io.NodeOutput:
        """Ask the judge and calibrate it, or read what was saved."""
        host, folder = ComfyHost(cls.hidden.unique_id), work_folders.work_folder(REPORTS, name)
        if preferences is None:
            result = _saved(judge, folder)
        else:
            job = CalibrateJob(
                preferences_folder=str(preferences.folder),
                report_folder=str(folder),
                judge=describe_judge(judge),
                settings=CalibrateConfig(**values),
                threads=torch.get_num_threads(),
            )
            result = job.run(host, judge=judge)
            host.notify(f"calibration in {folder}")
        hold(JUDGE, result.judge)
        numbers = result.judge.calibration.to_json()
        message = {"table": result.text, "report": json.loads(numbers)}
        return io.NodeOutput(
            report_image(result.report),
            result.text,
            numbers,
            result.judge,
            ui={"onereward": [message]},
        )


class OneRewardEnsembleJudges(OneRewardNode):
    """Takes several judges as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardEnsembleJudges",
            display_name="OneReward Ensemble Judges",
            category="OneReward/judge",
            description="Takes two to four judges as one: the mean of what they say, or what the "
            "worst one says. Calibrate each of them first.",
            **search_aliases("ensemble", "reward model ensemble", "combine judges"),
            inputs=[
                judge_input("The first judge.", "judge_1"),
                judge_input("The second judge.", "judge_2"),
                judge_input("Another judge.", "judge_3", optional=True),
                judge_input("Another judge.", "judge_4", optional=True),
                *config_inputs(EnsembleConfig),
            ],
            outputs=[
                output(JudgeSocket, "ensemble", "For every node that takes a judge.", "judge")
            ],
        )

    @classmethod
    def execute(cls, combine: str = MEAN, **judges: Judge | None) -> io.NodeOutput:
        """Return them as one."""
        connected = [judge for _, judge in sorted(judges.items()) if judge is not None]
        ensemble = EnsembleJudge(connected, combine)
        hold(JUDGE, ensemble)
        return io.NodeOutput(ensemble)


def _saved(judge: Judge, folder: Path) -> CalibrationResult:
    """Return a judge with the calibration in a folder; raises as :class:`CalibratedJudge`."""
    calibrated, report = CalibratedJudge(judge, folder), read_report(folder)
    if report is None:
        raise FileNotFoundError(
            f"{label_of(folder / FILE_NAME)} has no report beside it; connect preferences to make "
            "both anew"
        )
    return CalibrationResult(
        judge=calibrated, report=report, text=report_text(report, calibrated.label)
    )
