"""What to do with a trained model: save it for everyone, compare it with another."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..fill.config import FillConfig
from ..fill.models import DTYPES, FillModels
from ..reward.qwen_vl import QwenJudge
from ..training.charts.plots import stack
from ..training.charts.tables import render_table
from ..training.data.conditions import EditDataset
from ..training.evaluation.compare import CompareConfig, compare
from ..training.policy.merge_adapters import save_adapters
from .comfy_host import ComfyHost
from .inputs import config_inputs
from .paths import work_folders
from .socket_types import DatasetSocket, FillModelSocket, JudgeSocket, SettingsSocket


class OneRewardSaveAdapter(io.ComfyNode):
    """Writes a model's adapters as one LoRA file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardSaveAdapter",
            display_name="OneReward Save Adapter",
            category="OneReward",
            description="Writes the adapters of a model as one LoRA file into models/loras: for "
            "OneReward Load Adapter, ComfyUI's own LoRA loader and diffusers.",
            inputs=[
                FillModelSocket.Input(
                    "model",
                    display_name="model",
                    tooltip="From OneReward Train, or from OneReward Load Adapter; several "
                    "adapters become one.",
                ),
                io.String.Input(
                    "name",
                    display_name="name",
                    default="my-adapter",
                    tooltip="Name of the file in models/loras/onereward, without ending: letters, "
                    "digits, space, '.', '_' and '-'.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(DTYPES),
                    display_name="precision",
                    default="bf16",
                    optional=True,
                    tooltip="Data type in the file; fp32 is exact and twice as large.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    display_name="overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replace a file of this name.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "saved",
                    display_name="file",
                    tooltip="The file's name as the loaders list it.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model: FillModels, name: str, precision: str = "bf16", overwrite: bool = False
    ) -> io.NodeOutput:
        """Write the file."""
        path, label = work_folders.new_adapter_file(name)
        save_adapters(path, model, DTYPES[precision], overwrite)
        ComfyHost(cls.hidden.unique_id).notify(f"saved {path}")
        return io.NodeOutput(label)


class OneRewardCompare(io.ComfyNode):
    """Compares two models on the same conditions and seeds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardCompare",
            display_name="OneReward Compare",
            category="OneReward",
            description="Makes the same edits with two models and says how often the first is "
            "good, same or bad beside the second, by a judge and by measures.",
            inputs=[
                FillModelSocket.Input(
                    "first", display_name="first", tooltip="For example the trained model."
                ),
                FillModelSocket.Input(
                    "second", display_name="second", tooltip="For example the model before."
                ),
                DatasetSocket.Input(
                    "conditions",
                    display_name="conditions",
                    tooltip="What edits are made from; from OneReward Conditions.",
                ),
                JudgeSocket.Input(
                    "judge",
                    display_name="judge",
                    optional=True,
                    tooltip="Votes, asked in both orders; a judge that took no part in the "
                    "training says more. Without one there are measures only.",
                ),
                *config_inputs(CompareConfig),
                SettingsSocket.Input(
                    "settings",
                    display_name="settings",
                    optional=True,
                    tooltip="How to sample, for both; from OneReward Settings.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The table; below, per condition: source, first, second.",
                ),
                io.String.Output("table", display_name="table", tooltip="The table in Markdown."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        first: FillModels,
        second: FillModels,
        conditions: EditDataset,
        judge: QwenJudge | None = None,
        settings: FillConfig | None = None,
        **rest: Any,
    ) -> io.NodeOutput:
        """Make the images and compare them."""
        host, config = ComfyHost(cls.hidden.unique_id), CompareConfig(**rest)
        made = compare((first, second), conditions, config, host, judge, settings)
        host.notify(made.text())
        image = stack([render_table(made.cells()), made.sheet()[0]])
        return io.NodeOutput(image, made.text(), ui={"onereward": [{"table": made.text()}]})
