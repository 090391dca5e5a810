"""Measure a model on a whole folder of conditions."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io

from ..fill.config import FillConfig
from ..fill.models import FillModels
from ..reward.qwen_vl import QwenJudge
from ..training.data.conditions import EditDataset, read_image
from ..training.evaluation.config import EvalConfig
from ..training.evaluation.run import EvalModels
from ..training.jobs import EvaluateJob, describe_judge, describe_models
from .comfy_host import ComfyHost
from .inputs import config_inputs
from .paths import work_folders
from .socket_types import DatasetSocket, FillModelSocket, JudgeSocket, SettingsSocket

KIND = "benchmarks"


class OneRewardBenchmark(io.ComfyNode):
    """Measures a model on a folder of conditions, alone or beside a baseline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardBenchmark",
            display_name="OneReward Benchmark",
            category="OneReward",
            description="Edits a whole folder of conditions with a model, and with a baseline if one "
            "is connected: how many images are usable, by a judge and by measures, and how often "
            "the model is good, same or bad beside the baseline. Cancel keeps the work; run again to "
            "go on.",
            inputs=[
                FillModelSocket.Input(
                    "model", display_name="model", tooltip="The model to be measured."
                ),
                DatasetSocket.Input(
                    "conditions",
                    display_name="conditions",
                    tooltip="What edits are made from; from OneReward Conditions.",
                ),
                work_folders.name_input("output/onereward/benchmarks", "my-benchmark"),
                FillModelSocket.Input(
                    "baseline",
                    display_name="baseline",
                    optional=True,
                    tooltip="Another model that makes the same edits, for example the one before "
                    "training.",
                ),
                JudgeSocket.Input(
                    "judge",
                    display_name="judge",
                    optional=True,
                    tooltip="Judges every image beside its source and its baseline; a judge that "
                    "took no part in the training says more. Without one there are measures only.",
                ),
                *config_inputs(EvalConfig),
                SettingsSocket.Input(
                    "settings",
                    display_name="settings",
                    optional=True,
                    tooltip="How to sample, for both models; from OneReward Settings.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The tables; below, the first edits: source, model, baseline.",
                ),
                io.String.Output("table", display_name="table", tooltip="The report in Markdown."),
                io.String.Output(
                    "report", display_name="report", tooltip="The numbers as JSON, as in the file."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: FillModels,
        conditions: EditDataset,
        name: str,
        baseline: FillModels | None = None,
        judge: QwenJudge | None = None,
        settings: FillConfig | None = None,
        **rest: Any,
    ) -> io.NodeOutput:
        """Make what is missing and write the report."""
        host, folder = ComfyHost(cls.hidden.unique_id), work_folders.work_folder(KIND, name)
        job = EvaluateJob(
            model=describe_models(model),
            dataset_folder=str(conditions.folder),
            evaluation_folder=str(folder),
            baseline=describe_models(baseline) if baseline else {},
            judge=describe_judge(judge),
            settings=asdict(EvalConfig(**rest)),
            sampling=asdict(settings or FillConfig()),
            threads=torch.get_num_threads(),
        )
        made = job.run(host, EvalModels(model=model, baseline=baseline, judge=judge))
        host.notify(f"report in {folder}")
        numbers = made.numbers()
        shown = {"table": made.text(), "report": numbers}
        sheet = read_image(folder / "sheet.png")[None]
        return io.NodeOutput(
            sheet, made.text(), json.dumps(numbers, indent=2), ui={"onereward": [shown]}
        )
