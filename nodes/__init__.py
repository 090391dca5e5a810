"""The ComfyUI side of the pack; the only folder that imports ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .comfy_host import release_on_free
from .dataset import (
    OneRewardEditDataset,
    OneRewardGenerateCandidates,
    OneRewardLabelPreferences,
    OneRewardLoadPreferences,
)
from .edit import OneRewardExtend, OneRewardFill, OneRewardRemove, OneRewardText
from .evaluate import OneRewardEvaluate, OneRewardJudgeReport
from .judge import OneRewardPickBest, OneRewardScore
from .judges.combine_judges import OneRewardCalibrateJudge, OneRewardEnsembleJudges
from .judges.load_remote import OneRewardRemoteJudge
from .labelling.page_routes import add_routes
from .load_folder import OneRewardLoadFolder
from .loaders import OneRewardLoadAdapter, OneRewardLoadJudge, OneRewardLoadModel
from .native.judge_from_native import OneRewardJudgeFromNative
from .native.native import (
    OneRewardFromNative,
    OneRewardNativeInputs,
    OneRewardStitch,
    OneRewardToNative,
)
from .panel.run_folders import add_panel_routes
from .paths import example_inputs, folders
from .replacements import register_replacements
from .settings import OneRewardSettings
from .train_judge import OneRewardTrainJudge
from .train_policy import OneRewardSaveAdapter, OneRewardTrain, OneRewardTrainSettings

# At import, because ComfyUI 0.3.75 never calls on_load.
folders.register()
example_inputs.put()
release_on_free()
add_routes()
add_panel_routes()


class OneRewardExtension(ComfyExtension):
    """All nodes of the pack."""

    async def on_load(self) -> None:
        """Register what ComfyUI 0.3.75 does not know; it does not call this."""
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return [
            OneRewardLoadModel,
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
            OneRewardEvaluate,
            OneRewardRemoteJudge,
            OneRewardCalibrateJudge,
            OneRewardEnsembleJudges,
            OneRewardJudgeFromNative,
        ]
