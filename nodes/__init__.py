"""The ComfyUI side of the pack; the only folder that imports ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .batch import OneRewardLoadFolder
from .conditions import OneRewardEditDataset
from .edit import OneRewardExtend, OneRewardFill, OneRewardRemove, OneRewardText
from .evaluate import OneRewardBenchmark
from .judge import OneRewardLoadJudge, OneRewardPickBest, OneRewardScore
from .loaders import OneRewardLoadAdapter, OneRewardLoadFill
from .native.native import (
    OneRewardFromNative,
    OneRewardNativeInputs,
    OneRewardStitch,
    OneRewardToNative,
)
from .paths import folders
from .policy_results import OneRewardCompare, OneRewardSaveAdapter
from .preference import (
    OneRewardGenerateCandidates,
    OneRewardLabelPreferences,
    OneRewardLoadPreferences,
)
from .settings import OneRewardSettings
from .train_judge import OneRewardJudgeReport, OneRewardTrainJudge
from .train_policy import OneRewardTrain, OneRewardTrainSettings

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
            OneRewardEditDataset,
            OneRewardGenerateCandidates,
            OneRewardLabelPreferences,
            OneRewardLoadPreferences,
            OneRewardTrainJudge,
            OneRewardJudgeReport,
            OneRewardTrain,
            OneRewardTrainSettings,
            OneRewardSaveAdapter,
            OneRewardCompare,
            OneRewardBenchmark,
        ]
