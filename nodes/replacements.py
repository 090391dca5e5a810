"""Nodes of the older pack ComfyUI_OneReward that ours take the place of, where ComfyUI can do so.

Its settings equal our recipe ``OneReward`` by default (50 steps, true guidance 4, embedded guidance
1, negative prompt "nsfw"); others have to be set by hand, on OneReward Settings. Its models were
named by a hub id, ours are files on the disk: the loader begins with its defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api import latest
from comfy_api.latest import io

from .edit import OneRewardFill
from .loaders import OneRewardLoadModel


@dataclass(frozen=True)
class OldNode:
    """A node of the other pack, whose only output is our node's first.

    Example: ``OldNode("OneRewardSampler", OneRewardFill, ("seed",), {"seed": "seed"})``.
    """

    node_id: str
    replacement: type[io.ComfyNode]
    widgets: tuple[str, ...]
    """Its widgets in the order in which workflow files hold their values."""
    inputs: dict[str, str]
    """Our inputs, each with its name there."""

    def mapping(self) -> list[dict[str, Any]]:
        """Return where each input's value comes from; what is required and new has its default."""
        mapping = [{"new_id": new, "old_id": old} for new, old in self.inputs.items()]
        for item in self.replacement.GET_SCHEMA().inputs:
            if not item.optional and item.id not in self.inputs:
                mapping.append({"new_id": item.id, "set_value": item.as_dict()["default"]})
        return mapping


OLD_NODES = (
    OldNode(
        "OneRewardModelLoader",
        OneRewardLoadModel,
        widgets=("model_path", "base_model_path", "model_type"),
        inputs={},
    ),
    OldNode(
        "OneRewardSampler",
        OneRewardFill,
        widgets=(
            *("prompt", "negative_prompt", "guidance_scale", "true_cfg", "num_inference_steps"),
            *("seed", "control_after_generate"),
        ),
        inputs={
            "model": "pipe",
            "image": "image",
            "mask": "mask",
            "prompt": "prompt",
            "seed": "seed",
        },
    ),
)


async def register_replacements() -> None:
    """Tell ComfyUI of them; versions that replace no nodes are left alone."""
    if not hasattr(io, "NodeReplace"):
        return
    for old in OLD_NODES:
        replacement = io.NodeReplace(  # type: ignore[attr-defined]
            new_node_id=old.replacement.__name__,
            old_node_id=old.node_id,
            old_widget_ids=list(old.widgets),
            input_mapping=old.mapping(),
            output_mapping=[{"old_idx": 0, "new_idx": 0}],
        )
        await latest.ComfyAPI().node_replacement.register(replacement)  # type: ignore[attr-defined]
