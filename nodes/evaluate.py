"""Evaluation nodes: a fill model on a data set, and a judge on preferences."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..fill.config import FillConfig
from ..fill.models import FillModels
from ..reward.judge import Judge
from ..reward.preference import PreferenceSet
from ..training.data.conditions import EditDataset, read_image
from ..training.evaluation.config import EvalConfig
from ..training.evaluation.run import EvalModels
from ..training.jobs import EvaluateJob, ReportJob, describe_judge, describe_models
from ..training.judge.report import ReportConfig, report_image, report_text
from .comfy_host import ComfyHost
from .inputs import (
    advanced,
    config_inputs,
    dataset_input,
    judge_input,
    output,
    preferences_input,
    search_aliases,
)
from .node import OneRewardNode, given
from .paths import work_folders
from .socket_types import FillModelSocket, JudgeSocket, SettingsSocket

EVALUATIONS, REPORTS = "evaluations", "judge-reports"
"""Folders below output/onereward."""


class OneRewardEvaluate(OneRewardNode):
    """Evaluates a model on an edit data set, alone or against a baseline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardEvaluate",
            display_name="OneReward Evaluate",
            category="OneReward/training",
            description="Evaluates a model on an edit data set: the share of good images, by a "
            "judge and by measures, and the win rate against a baseline if one is connected. "
            "Cancel keeps the work; run again to go on.",
            **search_aliases(
                "evaluation", "benchmark", "win rate", "compare models", "GSB", "评估"
            ),
            inputs=[
                FillModelSocket.Input("model", tooltip="The model to evaluate."),
                dataset_input("The edits to make."),
                FillModelSocket.Input(
                    "baseline",
                    optional=True,
                    tooltip="Another model that makes the same edits, for example the one before "
                    "training.",
                ),
                JudgeSocket.Input(
                    "judge",
                    optional=True,
                    tooltip="Compares every image with its source and with the baseline's; a "
                    "judge that was not used in training is the fairer one. Without a judge there "
                    "are measures only.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="Name of a folder in output/onereward/evaluations that keeps images, "
                    "results and report, so that the same evaluation goes on where it stopped. "
                    "Empty: nothing is kept.",
                ),
                *advanced(*config_inputs(EvalConfig), names=("margin", "max_seam", "max_tone")),
                SettingsSocket.Input(
                    "settings",
                    optional=True,
                    tooltip="How to sample, for both models; from OneReward Settings.",
                ),
            ],
            outputs=[
                output(
                    io.Image,
                    "sheet",
                    "The tables; below, the first edits: source, model, baseline.",
                ),
                output(io.String, "table", "The report in Markdown."),
                output(io.String, "report", "The numbers as JSON, as in the file."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None, **values: Any) -> bool:
        """Refuse before the queue a bad name and what the config refuses."""
        if name:
            work_folders.work_folder(EVALUATIONS, name)
        EvalConfig.check(given(values))
        return True

    @classmethod
    def execute(
        cls,
        model: FillModels,
        dataset: EditDataset,
        name: str = "",
        baseline: FillModels | None = None,
        judge: Judge | None = None,
        settings: FillConfig | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        """Make what is missing and write the report."""
        host = ComfyHost(cls.hidden.unique_id)
        folder = work_folders.work_folder(EVALUATIONS, name) if name else _temporary_folder()
        job = EvaluateJob(
            model=describe_models(model),
            dataset_folder=str(dataset.folder),
            evaluation_folder=str(folder),
            baseline=describe_models(baseline) if baseline else {},
            judge=describe_judge(judge),
            settings=EvalConfig(**values),
            sampling=settings or FillConfig(),
            threads=torch.get_num_threads(),
        )
        report = job.run(host, EvalModels(model=model, baseline=baseline, judge=judge))
        text, numbers = report.text(), report.numbers()
        host.notify(f"report in {folder}" if name else text)
        sheet = read_image(folder / "sheet.png")[None]
        message = {"table": text, "report": numbers}
        return io.NodeOutput(
            sheet, text, json.dumps(numbers, indent=2), ui={"onereward": [message]}
        )


class OneRewardJudgeReport(OneRewardNode):
    """Measures a judge on pairs it was not trained on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardJudgeReport",
            display_name="OneReward Judge Report",
            category="OneReward/judge",
            description="Evaluates a judge (reward model) on held-out pairs: accuracy per task "
            "and dimension with 95 % intervals, swap consistency and calibration.",
            **search_aliases("reward model accuracy", "evaluate judge", "calibration"),
            inputs=[
                judge_input("The judge to report on."),
                preferences_input("Labelled pairs, of which the held-out split is used."),
                work_folders.name_input("output/onereward/judge-reports", "my-judge"),
                *config_inputs(ReportConfig),
            ],
            outputs=[
                output(io.Image, "image", "Table and calibration plot."),
                output(io.String, "text", "The whole report in Markdown."),
                output(io.String, "report", "The numbers as JSON, as in the file."),
                output(
                    JudgeSocket,
                    "reported_judge",
                    "The same judge, now with a report that OneReward Train reads: see "
                    "min_judge_accuracy there.",
                    "judge",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None, **values: Any) -> bool:
        """Refuse before the queue a bad name and what the config refuses."""
        if name is not None:
            work_folders.work_folder(REPORTS, name)
        ReportConfig.check(given(values))
        return True

    @classmethod
    def execute(
        cls, judge: Judge, preferences: PreferenceSet, name: str, **values: Any
    ) -> io.NodeOutput:
        """Ask the judge and write the report."""
        host, folder = ComfyHost(cls.hidden.unique_id), work_folders.work_folder(REPORTS, name)
        job = ReportJob(
            preferences_folder=str(preferences.folder),
            report_folder=str(folder),
            judge=describe_judge(judge),
            settings=ReportConfig(**values),
            threads=torch.get_num_threads(),
        )
        report = job.run(host, judge=judge)
        text, numbers = (
            report_text(report, judge.label),
            (folder / "report.json").read_text("utf-8"),
        )
        host.notify(f"report in {folder}")
        message = {"table": text, "report": json.loads(numbers)}
        image = report_image(report)
        return io.NodeOutput(image, text, numbers, judge, ui={"onereward": [message]})


def _temporary_folder() -> Path:
    """Return a new folder in ComfyUI's temporary one, which is emptied at every start."""
    root = Path(folder_paths.get_temp_directory())
    root.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="onereward-evaluation-", dir=root))
