"""The node that builds a data set of conditions."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from comfy_api.latest import io

from ..training.charts.contact_sheets import conditions_sheet
from ..training.data.conditions import FILE_NAME, EditDataset
from ..training.data.edit_dataset import EditDatasetConfig, make_edit_dataset
from .comfy_host import ComfyHost
from .inputs import config_inputs
from .paths import folders, work_folders
from .socket_types import DatasetSocket

KIND = "conditions"


class OneRewardEditDataset(io.ComfyNode):
    """Turns folders of images into the conditions that training works on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the list is read from the disk at every call."""
        return io.Schema(
            node_id="OneRewardEditDataset",
            display_name="OneReward Conditions",
            category="OneReward",
            description="Builds a data set to train on: images with masks, prompts and tasks, "
            "from a folder of yours.",
            inputs=[
                work_folders.name_input("output/onereward/conditions"),
                io.Combo.Input(
                    "images",
                    options=work_folders.image_folders(),
                    display_name="images",
                    default=work_folders.DEFAULT_EXAMPLE,
                    tooltip="Folder of images below ComfyUI's input or output folder; one with "
                    "a conditions.jsonl is taken as it is. The bundled toy scenes are what the "
                    "bundled models know.",
                ),
                *config_inputs(EditDatasetConfig),
            ],
            outputs=[
                DatasetSocket.Output(
                    "condition_set",
                    display_name="conditions",
                    tooltip="For OneReward Collect and for training.",
                ),
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The first 16 conditions; what is to be repainted is red.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", images: str = "", **rest: Any) -> Hashable:
        """Change when an image changes, or when the data set is gone."""
        try:
            made = work_folders.work_folder(KIND, name) / FILE_NAME
            source = folders.stamp(work_folders.image_folder(images))
        except (ValueError, FileNotFoundError, TypeError):
            return ()
        return source, made.is_file()

    @classmethod
    def execute(cls, name: str, images: str, **rest: Any) -> io.NodeOutput:
        """Build the data set, or open it if the folder is one."""
        config, host = EditDatasetConfig(**rest), ComfyHost(cls.hidden.unique_id)
        folder = work_folders.work_folder(KIND, name)
        place = work_folders.image_folder(images)
        is_made = (place / FILE_NAME).is_file()
        made = EditDataset(place) if is_made else make_edit_dataset(folder, place, config, host)
        host.notify(f"{made.summary()} in {made.folder}")
        return io.NodeOutput(made, conditions_sheet(made))
