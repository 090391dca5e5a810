"""The ComfyUI side of the pack; the only folder that imports ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import folders
from .batch import OneRewardLoadFolder
from .benchmark import OneRewardBenchmark
from .conditions import OneRewardConditions
from .config import OneRewardSettings
from .fill import OneRewardExtend, OneRewardFill, OneRewardRemove, OneRewardText
from .judge import OneRewardLoadJudge, OneRewardPickBest, OneRewardScore
from .judge_training import OneRewardJudgeReport, OneRewardTrainJudge
from .load import OneRewardLoadAdapter, OneRewardLoadFill
from .native import (
    OneRewardFromNative,
    OneRewardNativeInputs,
    OneRewardStitch,
    OneRewardToNative,
)
from .policy_results import OneRewardCompare, OneRewardSaveAdapter
from .policy_training import OneRewardTrain, OneRewardTrainSettings
from .preference import OneRewardCollect, OneRewardLabel, OneRewardLoadPreferences

# At import, because ComfyUI 0.3.75 never calls on_load.
folders.register()


class OneRewardExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return [
            OneRewardLoadFill,
            OneRewardLoadAdapter,
            OneRewardFill,
            OneRewardExtend,
            OneRewardRemove,
            OneRewardText,
            OneRewardSettings,
            OneRewardLoadJudge,
            OneRewardScore,
            OneRewardPickBest,
            OneRewardNativeInputs,
            OneRewardStitch,
            OneRewardToNative,
            OneRewardFromNative,
            OneRewardLoadFolder,
            OneRewardConditions,
            OneRewardCollect,
            OneRewardLabel,
            OneRewardLoadPreferences,
            OneRewardTrainJudge,
            OneRewardJudgeReport,
            OneRewardTrain,
            OneRewardTrainSettings,
            OneRewardSaveAdapter,
            OneRewardCompare,
            OneRewardBenchmark,
        ]
