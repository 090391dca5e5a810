"""Train a judge on preferences, and report how good it is."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..reward.judge import Judge, JudgeConfig
from ..reward.preference import PreferenceSet
from ..reward.vlm.qwen_vl import QwenJudge
from ..training.charts.dashboard import plot_judge_dashboard
from ..training.judge.config import JudgeTrainConfig
from ..training.judge.train import train_judge
from ..training.runs.directory import RunDirectory
from .comfy_host import ComfyHost
from .inputs import (
    advanced,
    config_inputs,
    judge_input,
    output,
    preferences_input,
    run_inputs,
    search_aliases,
)
from .node import OneRewardNode, given
from .paths import folders, work_folders
from .socket_types import JudgeSocket

RUNS = folders.JUDGE_RUNS
RARE = (
    *("alpha", "warmup_steps", "weight_decay", "max_grad_norm", "shift", "blur", "noise"),
    *("eval_pairs", "precision", "micro_batch_size", "gradient_checkpointing", "liger_kernel"),
)
"""Settings that a newer front end folds away."""
WHOSE = ("labels_by", "contradictions")
"""They came later, so they stand at the end."""


class OneRewardTrainJudge(OneRewardNode):
    """Trains a judge on preference pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardTrainJudge",
            display_name="OneReward Train Judge",
            category="OneReward/training",
            description="Trains a judge (reward model) on preference pairs, eq. 3 of OneReward: a "
            "LoRA adapter, or all weights. Cancel keeps the work; run again to go on.",
            **search_aliases("reward model training", "LoRA training", "RLHF", "preference"),
            inputs=[
                judge_input("The judge to start from; it is not changed."),
                preferences_input(
                    "Pairs, from OneReward Label Preferences or OneReward Load Preferences."
                ),
                work_folders.name_input("output/onereward/judges", "my-judge"),
                *advanced(*config_inputs(JudgeTrainConfig, leave_out=WHOSE), names=RARE),
                *run_inputs(
                    "Seed of the adapter's first weights, the order of pairs and augmentation."
                ),
                *advanced(*config_inputs(JudgeTrainConfig, WHOSE)),
            ],
            outputs=[
                output(JudgeSocket, "trained_judge", "The trained judge.", "judge"),
                output(io.Image, "dashboard", "Loss and held-out accuracy over the steps."),
                output(
                    io.String,
                    "result",
                    "Folder of the adapter, or of the whole judge; OneReward Load Judge lists it.",
                    "folder",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", **values: Any) -> Hashable:
        """Change with the saved step, so that an unfinished run is not taken from the cache."""
        return work_folders.run_stamp(RUNS, name)

    @classmethod
    def validate_inputs(cls, name: str | None = None, **values: Any) -> bool:
        """Refuse before the queue a bad name and settings out of their limits."""
        if name is not None:
            work_folders.work_folder(RUNS, name)
        JudgeTrainConfig.check(given(values))
        return True

    @classmethod
    def execute(
        cls,
        judge: Judge,
        preferences: PreferenceSet,
        name: str,
        max_minutes: float = 600.0,
        **values: Any,
    ) -> io.NodeOutput:
        """Train, or go on."""
        if not isinstance(judge, QwenJudge):
            raise ValueError(
                f"judge {judge.label} cannot be trained: only the built-in question "
                "is; choose a Qwen-VL checkpoint without a card in OneReward Load Judge"
            )
        host, run = ComfyHost(cls.hidden.unique_id), work_folders.work_folder(RUNS, name)
        config = JudgeTrainConfig(
            judge_folder=judge.config.folder,
            judge_adapter=judge.config.adapter,
            max_pixels=judge.config.max_pixels,
            preferences_folder=str(preferences.folder),
            run_folder=str(run),
            max_minutes=max_minutes,
            threads=torch.get_num_threads(),
            log_every=10,
            **values,
        )
        result = train_judge(config, host, on_record=_report_accuracy(host))
        trained = QwenJudge(_trained_judge(judge.config, config, result), host.device)
        metrics = RunDirectory(config).read_metrics()
        dashboard = plot_judge_dashboard(metrics, config.steps)[None]
        board = ui.PreviewImage(dashboard, cls=cls).as_dict()  # it stays, as live previews do not
        return io.NodeOutput(trained, dashboard, str(result), ui=board)


def _trained_judge(start: JudgeConfig, config: JudgeTrainConfig, result: Path) -> JudgeConfig:
    """Return the judge that a run has made."""
    is_full = config.mode == "full"
    return JudgeConfig(
        folder=str(result) if is_full else start.folder,
        adapter="" if is_full else str(result),
        precision=start.precision,
        max_pixels=start.max_pixels,
        liger_kernel=start.liger_kernel,
    )


def _report_accuracy(host: ComfyHost) -> Any:
    """Show a line under the node for every evaluation."""

    def notify(record: dict[str, float]) -> None:
        if "accuracy" in record:
            host.notify(
                f"step {record['step']}: loss {record['loss']:.3f}, held-out accuracy "
                f"{record['accuracy']:.1%}"
            )

    return notify
