"""The settings node: exactly the fields of FillConfig."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..fill.config import FillConfig
from .inputs import advanced, config_inputs, output, search_aliases
from .node import OneRewardNode, given
from .socket_types import SettingsSocket

RARE = (
    *("shift", "cfg_mode", "context_factor", "fill_holes", "colour_correction"),
    *("preserve_unmasked", "merge_masks", "same_seed", "skip_empty_masks"),
)
"""Settings that a newer front end folds away."""


class OneRewardSettings(OneRewardNode):
    """Sampling and stitching settings that most people never touch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardSettings",
            display_name="OneReward Settings",
            category="OneReward/edit",
            description="Sampling and stitching settings of an edit (steps, guidance, crop, mask "
            "growth, candidates); without this node every setting follows the model's recipe and "
            "the task.",
            **search_aliases("steps", "guidance", "cfg", "crop and stitch", "denoise"),
            inputs=advanced(*config_inputs(FillConfig), names=RARE),
            outputs=[
                output(SettingsSocket, "settings", "Connect it to the input `settings` of an edit.")
            ],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Refuse before the queue what the config refuses."""
        FillConfig(**given(values))
        return True

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        """Return the validated settings."""
        return io.NodeOutput(FillConfig(**values))
