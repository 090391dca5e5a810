"""Makes any kind of judge of its values in a config, a job or a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .judge import Judge, JudgeConfig
from .vlm.qwen_vl import QwenJudge


def check_judge_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError if values are of no judge or out of their limits; no file is read."""
    JudgeConfig.from_values(values)


def load_judge(values: Mapping[str, Any], device: torch.device) -> Judge:
    """Check a judge and return it; weights are read when a host first makes it resident.

    Example: ``load_judge({"folder": "bundled"}, torch.device("cpu"))``.

    Args:
        values: Fields of :class:`~.judge.JudgeConfig`, as :meth:`Judge.to_values` returns them.
        device: Where it will run.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A setting is out of its limits, or pickled or damaged weights.
        JudgeError: The checkpoint cannot judge.
    """
    return QwenJudge(JudgeConfig.from_values(values), device)
