"""Judge node: a vision-language text encoder that is already loaded."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...reward.judge import JudgeConfig
from ..inputs import config_inputs, output, search_aliases
from ..node import OneRewardNode
from ..socket_types import JudgeSocket
from .native_judge import NativeJudge

MAX_PIXELS = JudgeConfig().max_pixels


class OneRewardJudgeFromNative(OneRewardNode):
    """Takes a loaded text encoder as the judge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardJudgeFromNative",
            display_name="OneReward Judge From Native",
            category="OneReward/native",
            description="Takes a loaded CLIP that is a vision-language model with its language "
            "head (Qwen3-VL 4B or 8B) as the judge: for scoring, choosing and labelling, "
            "not for gradients. Nothing is copied; ComfyUI moves its weights.",
            **search_aliases("Qwen3-VL", "VLM", "text encoder", "vision-language model"),
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="Text encoder from Load CLIP, such as qwen3vl_4b or qwen3vl_8b; one "
                    "without vision tower or language head is refused.",
                ),
                *config_inputs(JudgeConfig, ("max_pixels",)),
            ],
            outputs=[
                output(
                    JudgeSocket,
                    "native_judge",
                    "For the nodes of OneReward/judge and data, and for evaluation.",
                    "judge",
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, max_pixels: int = MAX_PIXELS) -> io.NodeOutput:
        """Check the text encoder and return the judge."""
        judge = NativeJudge(clip, max_pixels)
        judge.check()
        return io.NodeOutput(judge)
