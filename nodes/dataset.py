"""Data nodes: edit data sets, generated candidates, labels, preference folders."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from comfy_api.latest import io

from ..fill.fingerprint import fingerprint
from ..fill.models import FillModels
from ..reward.judge import Judge
from ..reward.preference import GROUPS, PAIRS, PreferenceSet
from ..training.charts.contact_sheets import candidates_sheet, conditions_sheet
from ..training.data.conditions import FILE_NAME, EditDataset
from ..training.data.edit_dataset import EditDatasetConfig, make_edit_dataset
from ..training.data.generate import GenerateConfig, groups_of
from ..training.data.label import LabelConfig
from ..training.jobs import GenerateJob, LabelJob, describe_judge, describe_models
from .comfy_host import ComfyHost
from .inputs import (
    advanced,
    config_inputs,
    dataset_input,
    output,
    preferences_input,
    search_aliases,
)
from .node import OneRewardNode, given, refusal
from .paths import folders, work_folders
from .socket_types import DatasetSocket, FillModelSocket, JudgeSocket, PreferencesSocket

DATASETS = "datasets"
PREFERENCES = "preferences"
"""Folders below output/onereward."""
DEFAULTS = GenerateConfig()


class OneRewardEditDataset(OneRewardNode):
    """Turns folders of images into an edit data set."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the list is read from the disk at every call."""
        return io.Schema(
            node_id="OneRewardEditDataset",
            display_name="OneReward Edit Dataset",
            category="OneReward/data",
            description="Builds a data set for training and evaluation from a folder of images: "
            "images with masks, prompts and tasks.",
            **search_aliases("training data", "dataset", "image folder", "random masks"),
            inputs=[
                work_folders.name_input("output/onereward/datasets"),
                io.Combo.Input(
                    "images",
                    options=work_folders.image_folders(),
                    default=work_folders.DEFAULT_EXAMPLE,
                    tooltip="Folder of images below ComfyUI's input or output folder; one with a "
                    "conditions.jsonl is used as it is. The bundled toy scenes are what the "
                    "bundled models were trained on.",
                ),
                *config_inputs(EditDatasetConfig),
            ],
            outputs=[
                output(
                    DatasetSocket,
                    "edit_dataset",
                    "For OneReward Generate Candidates, Train and Evaluate.",
                    "dataset",
                ),
                output(io.Image, "sheet", "The first 16 conditions; the area to repaint is red."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", images: str = "", **values: Any) -> Hashable:
        """Change when an image changes, or when the data set is gone."""
        try:
            path = work_folders.work_folder(DATASETS, name) / FILE_NAME
            source = folders.stamp(work_folders.image_folder(images))
        except (ValueError, OSError, TypeError):
            return ()
        return source, path.is_file()

    @classmethod
    def validate_inputs(
        cls, name: str | None = None, images: str | None = None, **values: Any
    ) -> bool:
        """Refuse before the queue a bad name or setting and a folder that is not there."""
        if name is not None:
            work_folders.work_folder(DATASETS, name)
        if images is not None:
            work_folders.image_folder(images)
        EditDatasetConfig.check(given(values))
        return True

    @classmethod
    def execute(cls, name: str, images: str, **values: Any) -> io.NodeOutput:
        """Build the data set, or open it if the folder is one."""
        config, host = EditDatasetConfig(**values), ComfyHost(cls.hidden.unique_id)
        folder = work_folders.work_folder(DATASETS, name)
        source = work_folders.image_folder(images)
        if (source / FILE_NAME).is_file():
            dataset = EditDataset(source)
        else:
            dataset = make_edit_dataset(folder, source, config, host)
        host.notify(f"{dataset.summary()} in {dataset.folder}")
        return io.NodeOutput(dataset, conditions_sheet(dataset))


class OneRewardGenerateCandidates(OneRewardNode):
    """Generates several candidates of every condition, with randomised settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardGenerateCandidates",
            display_name="OneReward Generate Candidates",
            category="OneReward/data",
            description="Generates several candidates for every condition of an edit data set, "
            "with randomised settings: the first step of preference data for RLHF. Run again to "
            "go on after a stop; another model adds its own candidates.",
            **search_aliases("preference data", "RLHF", "sample images", "rollouts"),
            inputs=[
                FillModelSocket.Input("model", tooltip="The fill model that makes the candidates."),
                dataset_input("The edits to make."),
                work_folders.name_input("output/onereward/preferences"),
                *config_inputs(GenerateConfig, ("num_candidates", "seed")),
                *_range("steps", 1, 1000, "sampling steps"),
                *_range("true_cfg", 0.0, 30.0, "true guidance; 1 = off"),
                *_range("denoise", 0.01, 1.0, "denoising strength; 1 = from pure noise"),
                *advanced(
                    *_range("guidance", -1.0, 100.0, "embedded guidance; -1 = the model's recipe")
                ),
                io.String.Input(
                    "negative_prompts",
                    multiline=True,
                    default="\n".join(DEFAULTS.negative_prompts),
                    optional=True,
                    tooltip="One per line, chosen at random (the paper's four); an empty line is "
                    "none.",
                ),
                *config_inputs(GenerateConfig, ("max_conditions",)),
            ],
            outputs=[
                _data_output("candidate_data", "The candidates, for OneReward Label Preferences."),
                output(
                    io.Image, "sheet", "The first conditions, one per row: source, then candidates."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", **values: Any) -> Hashable:
        """Change when candidates are added or removed."""
        return folders.stamps(lambda: [work_folders.work_folder(PREFERENCES, name) / GROUPS])

    @classmethod
    def validate_inputs(cls, name: str | None = None, **values: Any) -> bool:
        """Refuse before the queue a bad name, limits and ranges that are upside down."""
        if name is not None:
            work_folders.work_folder(PREFERENCES, name)
        ends = given(values)
        # The other end of a range may be linked.
        _generate_config(**{key: ends[key] for key in ends if _other_end(key) in (key, *ends)})
        return True

    @classmethod
    def execute(
        cls, model: FillModels, dataset: EditDataset, name: str, **values: Any
    ) -> io.NodeOutput:
        """Generate what is missing."""
        folder, host = work_folders.work_folder(PREFERENCES, name), ComfyHost(cls.hidden.unique_id)
        job = GenerateJob(
            **describe_models(model),
            dataset_folder=str(dataset.folder),
            preferences_folder=str(folder),
            settings=_generate_config(**values),
            threads=torch.get_num_threads(),
        )
        data = job.run(host, models=model)
        groups = groups_of(data, model, fingerprint(model))
        num = sum(len(group.file_names) for group in groups)
        num_others = len(data.groups()) - len(groups)
        suffix = f", besides {num_others} groups of other models" if num_others else ""
        host.notify(f"{num} candidates of {len(groups)} conditions in {folder}{suffix}")
        return io.NodeOutput(data, candidates_sheet(data, groups))


class OneRewardLabelPreferences(OneRewardNode):
    """Labels the best and the worst candidate per dimension."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardLabelPreferences",
            display_name="OneReward Label Preferences",
            category="OneReward/data",
            description="Makes preference pairs: labels the best and the worst candidate per "
            "dimension, by a judge (AI feedback) or by metrics. Where candidates hardly differ "
            "there is no pair.",
            **search_aliases("preference data", "preference pairs", "RLAIF", "annotate"),
            inputs=[
                preferences_input("Candidates, from OneReward Generate Candidates."),
                *config_inputs(LabelConfig),
                JudgeSocket.Input(
                    "judge",
                    optional=True,
                    tooltip="Needed if the labeller is judge; from OneReward Load Judge.",
                ),
            ],
            outputs=[
                _data_output("labelled_data", "The same data with its pairs."),
                output(
                    io.String,
                    "report",
                    "Pairs per task and dimension, and the share that was dropped.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Refuse before the queue what the config refuses."""
        LabelConfig.check(given(values))
        return True

    @classmethod
    def execute(
        cls, preferences: PreferenceSet, judge: Judge | None = None, **values: Any
    ) -> io.NodeOutput:
        """Label the candidates that have no label yet."""
        work_folders.check_writable(preferences.folder)
        host = ComfyHost(cls.hidden.unique_id)
        job = LabelJob(
            preferences_folder=str(preferences.folder),
            judge=describe_judge(judge),
            settings=LabelConfig(**values),
            threads=torch.get_num_threads(),
        )
        text = job.run(host, judge=judge).text()
        host.notify(text)
        return io.NodeOutput(preferences, text, ui={"onereward": [{"table": text}]})


class OneRewardLoadPreferences(OneRewardNode):
    """Opens a folder of preference data."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the list is read from the disk at every call."""
        names = work_folders.preference_folders()
        return io.Schema(
            node_id="OneRewardLoadPreferences",
            display_name="OneReward Load Preferences",
            category="OneReward/data",
            description="Opens preference data: imported, saved by OneReward Pick Best, or made "
            "by another workflow.",
            **search_aliases("preference data", "RLHF data", "DPO data"),
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=names,
                    default=names[0],
                    tooltip="Folder with a metadata.jsonl or candidates.jsonl below ComfyUI's "
                    "input or output folder, or the bundled example.",
                ),
            ],
            outputs=[_data_output("loaded_data", "For labelling, training and reports.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **values: Any) -> Hashable:
        """Change when pairs or candidates are added or removed."""
        return folders.stamps(
            lambda: [work_folders.data_folder(folder or "") / name for name in (PAIRS, GROUPS)]
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool:
        """Refuse before the queue a folder that is not there or holds no preference data."""
        return refusal(lambda: folder is None or work_folders.data_folder(folder))

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        """Open the folder and read it once, so that damage shows here."""
        data = PreferenceSet(work_folders.data_folder(folder))
        summary = f"{len(data.pairs())} pairs, {len(data.groups())} groups of candidates"
        ComfyHost(cls.hidden.unique_id).notify(summary)
        return io.NodeOutput(data)


def _generate_config(negative_prompts: str | None = None, **values: Any) -> GenerateConfig:
    """Turn the inputs into a config: least and most become one range."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        field, _, end = key.rpartition("_")
        if end in ("min", "max"):
            low, high = settings.get(field, getattr(DEFAULTS, field))
            settings[field] = (value, high) if end == "min" else (low, value)
        else:
            settings[key] = value
    if negative_prompts is not None:
        settings["negative_prompts"] = tuple(negative_prompts.split("\n"))
    return GenerateConfig(**settings)


def _other_end(key: str) -> str:
    """Return the input for the other end of a range; the same for any other input."""
    field, _, end = key.rpartition("_")
    return f"{field}_{'max' if end == 'min' else 'min'}" if end in ("min", "max") else key


def _range(name: str, low: float, high: float, what: str) -> list[io.Input]:
    kind, step = (io.Int, 1) if isinstance(low, int) else (io.Float, 0.05)
    return [
        kind.Input(
            f"{name}_{end}",
            default=getattr(DEFAULTS, name)[index],
            min=low,  # type: ignore[arg-type]
            max=high,  # type: ignore[arg-type]
            step=step,  # type: ignore[arg-type]
            optional=True,
            tooltip=f"{('Least', 'Most')[index]} {what}.",
        )
        for index, end in enumerate(("min", "max"))
    ]


def _data_output(name: str, tooltip: str) -> io.Output:
    return output(PreferencesSocket, name, tooltip, "preferences")
