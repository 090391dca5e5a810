"""The models of a policy's run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ...fill.models import FillModels, load_fill_models
from ...reward.qwen_vl import QwenJudge
from .config import PolicyTrainConfig
from .rewards import RewardFactory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunModels:
    """The models of a run; a node hands over what is connected to it."""

    models: FillModels
    judges: tuple[QwenJudge, ...] = ()
    eval_judge: QwenJudge | None = None
    reward: RewardFactory | None = None
    """Takes the place of the judges in a run with ``external_reward``."""

    @property
    def all_judges(self) -> tuple[QwenJudge, ...]:
        """Those that reward, then the one that watches."""
        return (*self.judges, *([self.eval_judge] if self.eval_judge else []))


def load(config: PolicyTrainConfig, device: torch.device) -> RunModels:
    """Check all models of a run; no weight is read yet.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: Something does not fit together.
        JudgeError: A judge cannot answer Yes and No.
    """
    models = load_fill_models(config.model_config(), device)
    for path, strength in zip(config.adapters, config.strengths, strict=True):
        models = models.with_adapter(Path(path), strength)
    judges = [QwenJudge(judge, device) for judge in config.judge_configs()]
    watching = config.eval_judge_config()
    other = QwenJudge(watching, device) if watching else None
    return RunModels(models=models, judges=tuple(judges), eval_judge=other)
