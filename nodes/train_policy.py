"""Training a fill model with a judge as the reward, inside the graph."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from ..fill.checkpoint.modules import DTYPES
from ..fill.io.json_text import quote
from ..fill.models import FillModels, load_fill_models
from ..reward.judge import Judge
from ..reward.preference import PreferenceSet
from ..training.data.conditions import EditDataset
from ..training.jobs import describe_models
from ..training.policy.config import LORA, PolicyTrainConfig
from ..training.policy.merge_adapters import save_adapters
from .comfy_host import ComfyHost
from .inputs import (
    advanced,
    config_inputs,
    dataset_input,
    judge_input,
    output,
    preferences_input,
    run_inputs,
    search_aliases,
)
from .node import OneRewardNode, given, refusal
from .paths import work_folders
from .socket_types import FillModelSocket, TrainSettingsSocket

if TYPE_CHECKING:
    from ..training.policy.run import PolicyResult

KIND = "policies"
MAIN = (
    *("steps", "algorithm", "mode", "rank", "batch_size", "micro_batch_size", "learning_rate"),
    *("reward_cap", "target_size", "min_judge_accuracy", "gradient_checkpointing", "objective"),
)
"""Settings on the training node; the others are on OneReward Train Settings."""
RARE = (
    *("micro_batch_size", "gradient_checkpointing", "reward_cap", "max_grad_norm", "t1", "t2"),
    *("ensemble", "paste_back", "shift", "blur", "noise", "kl_weight", "reference_pool"),
    *("optimizer", "patience", "save_total_limit", "grow", "feather", "tensorboard"),
)
"""Settings that a newer front end folds away."""


class OneRewardTrain(OneRewardNode):
    """Trains a fill model with a judge as the reward."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardTrain",
            display_name="OneReward Train",
            category="OneReward/training",
            description="Trains a fill model with a judge as the reward (RLHF, alg. 1 and 2 of "
            "OneReward), on preference pairs (DPO), or on known results: a LoRA adapter, or all "
            "weights. Cancel keeps the work; run again to go on.",
            **search_aliases(
                "RLHF", "DPO", "LoRA training", "reinforcement learning", "fine-tuning"
            ),
            inputs=_inputs(),
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", **values: Any) -> Hashable:
        """Change with the saved step, so that an unfinished run is not taken from the cache."""
        return work_folders.run_stamp(KIND, name)

    @classmethod
    def validate_inputs(cls, name: str | None = None, **values: Any) -> bool:
        """Refuse before the queue a bad name and settings out of their limits."""
        if name is not None:
            work_folders.work_folder(KIND, name)
        PolicyTrainConfig.check(given(values))
        return True

    @classmethod
    def execute(
        cls,
        model: FillModels,
        dataset: EditDataset,
        name: str,
        judge: Judge | None = None,
        second_judge: Judge | None = None,
        eval_judge: Judge | None = None,
        settings: dict[str, Any] | None = None,
        preferences: PreferenceSet | None = None,
        max_minutes: float = 600.0,
        **values: Any,
    ) -> io.NodeOutput:
        """Train, or go on."""
        from ..training.policy.run import RunModels, train_policy  # the loop; nodes start without

        judges = tuple(j for j in (judge, second_judge) if j is not None)
        config = PolicyTrainConfig(
            **describe_models(model),
            dataset_folder=str(dataset.folder),
            run_folder=str(work_folders.work_folder(KIND, name)),
            judges=tuple(j.to_values() for j in judges),
            preferences_folder=str(preferences.folder) if preferences else "",
            eval_judge=eval_judge.to_values() if eval_judge else {},
            max_minutes=max_minutes,
            threads=torch.get_num_threads(),
            **_further_settings(settings or {}),
            **values,
        )
        host = ComfyHost(cls.hidden.unique_id)
        run_models = RunModels(models=model, judges=judges, eval_judge=eval_judge)
        result = train_policy(config, host, run_models)
        notes = "\n".join(result.notes)
        trained = _trained_model(model, config, result, host)
        dashboard = result.dashboard[None]
        board = ui.PreviewImage(dashboard, cls=cls).as_dict()  # it stays, as live previews do not
        return io.NodeOutput(trained, dashboard, str(result.path), notes, ui=board)


class OneRewardTrainSettings(OneRewardNode):
    """Settings of training that most people never touch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardTrainSettings",
            display_name="OneReward Train Settings",
            category="OneReward/training",
            description="The settings of OneReward Train that most people never touch: sampling, "
            "task weights, stability, remedies against reward hacking, evaluation in training.",
            **search_aliases("hyperparameters", "LoRA training", "RLHF", "warm-up", "EMA"),
            inputs=advanced(*config_inputs(PolicyTrainConfig, leave_out=MAIN), names=RARE),
            outputs=[
                output(
                    TrainSettingsSocket,
                    "train_settings",
                    "Connect it to the input `settings` of OneReward Train.",
                    "settings",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Refuse before the queue settings out of their limits."""
        PolicyTrainConfig.check(given(values))
        return True

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        """Hand the settings over; they are validated together with those of the training node."""
        return io.NodeOutput(values)


class OneRewardSaveAdapter(OneRewardNode):
    """Saves a model's adapters as one LoRA file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardSaveAdapter",
            display_name="OneReward Save Adapter",
            category="OneReward/training",
            description="Saves the adapters of a model as one LoRA file in models/loras: for "
            "OneReward Load Adapter, ComfyUI's own LoRA loader and diffusers.",
            **search_aliases("save LoRA", "export LoRA", "merge LoRA"),
            inputs=[
                FillModelSocket.Input(
                    "model",
                    tooltip="From OneReward Train, or from OneReward Load Adapter; several "
                    "adapters become one.",
                ),
                io.String.Input(
                    "name",
                    default="my-adapter",
                    tooltip="Name of the file in models/loras/onereward, without ending: letters, "
                    "digits, space, '.', '_' and '-'.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    default="bf16",
                    optional=True,
                    tooltip="Data type in the file; fp32 is exact and twice as large.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace a file of this name.",
                ),
            ],
            outputs=[
                output(io.String, "saved", "The file's name as the loaders list it.", "file"),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool:
        """Refuse a bad name before the queue."""
        return refusal(lambda: name is None or work_folders.new_adapter_file(name))

    @classmethod
    def execute(
        cls, model: FillModels, name: str, precision: str = "bf16", overwrite: bool = False
    ) -> io.NodeOutput:
        """Write the file."""
        path, label = work_folders.new_adapter_file(name)
        save_adapters(path, model, DTYPES[precision], overwrite)
        ComfyHost(cls.hidden.unique_id).notify(f"saved {path}")
        return io.NodeOutput(label)


def _further_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of OneReward Train Settings; ValueError for those of something else."""
    names = {f.name for f in fields(PolicyTrainConfig) if "help" in f.metadata} - set(MAIN)
    if foreign := sorted(map(str, set(settings) - names)):
        raise ValueError(f"settings holds {quote(foreign)}; connect OneReward Train Settings")
    return settings


def _trained_model(
    model: FillModels, config: PolicyTrainConfig, result: PolicyResult, host: ComfyHost
) -> FillModels:
    if config.mode == LORA:
        return model.with_adapter(Path(result.path), 1.0)
    assert model.config is not None, "describe_models has refused it"
    trained = load_fill_models(replace(model.config, transformer=str(result.path)), host.device)
    for adapter in model.adapters:
        trained = trained.with_adapter(adapter.path, adapter.strength)
    return trained


def _inputs() -> list[io.Input]:
    return [
        FillModelSocket.Input(
            "model",
            tooltip="The fill model to start from; it is not changed. Its adapters stay active "
            "and frozen.",
        ),
        dataset_input("The edits to train on; a tenth is held out for evaluation."),
        work_folders.name_input("output/onereward/policies", "my-policy"),
        judge_input(
            "The reward model; supervised and dpo learn without one.", "judge", optional=True
        ),
        *advanced(*config_inputs(PolicyTrainConfig, MAIN), names=RARE),
        *run_inputs(
            "Seed of the adapter's first weights, the order of the conditions and all noise."
        ),
        judge_input(
            "A second reward model; both make an ensemble.",
            "second_judge",
            optional=True,
        ),
        judge_input(
            "A judge that is not trained against: it detects reward hacking and selects the best "
            "checkpoint.",
            "eval_judge",
            optional=True,
        ),
        TrainSettingsSocket.Input(
            "settings",
            optional=True,
            tooltip="From OneReward Train Settings; without it all have their defaults.",
        ),
        preferences_input("What objective dpo learns from, instead of a judge.", optional=True),
    ]


def _outputs() -> list[io.Output]:
    return [
        output(FillModelSocket, "trained_model", "The trained model.", "model"),
        output(
            io.Image,
            "dashboard",
            "Rewards over the steps; below, held-out edits: source, start, policy.",
        ),
        output(
            io.String,
            "result",
            "The adapter's file, or the folder of the whole transformer.",
            "file",
        ),
        output(io.String, "notes", "What was left out and why, and why the run stopped."),
    ]
