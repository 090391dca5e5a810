"""Makes any kind of judge of its values in a config, a job or a run.

Values without ``kind`` are those of a folder, :class:`~.judge.JudgeConfig`. Others, for example::

    {"kind": "remote", "base_url": "http://localhost:8000/v1", "model": "Qwen/Qwen3-VL-8B-Instruct"}
    {"kind": "calibrated", "judge": {"folder": "bundled"}, "folder": "judge-reports/my-judge"}
    {"kind": "resident", "label": "qwen3vl_4b (native)", "digest": "5d0c...", "max_pixels": 262144}
    {"kind": "ensemble", "judges": [{...}, {...}], "combine": "mean"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..fill.io.json_text import quote
from ..fill.json_config import JsonConfig
from . import calibrated_judge, ensemble
from .calibrated_judge import CalibratedConfig, CalibratedJudge
from .cards.card_judge import local_judge
from .ensemble import EnsembleConfig, EnsembleJudge
from .judge import Judge, JudgeConfig, JudgeError, ResidentConfig
from .remote import remote_judge
from .remote.remote_config import RemoteConfig
from .remote.remote_judge import RemoteJudge

LOCAL, RESIDENT = "local", "resident"
_CONFIGS: dict[str, type[JsonConfig]] = {
    LOCAL: JudgeConfig,
    RESIDENT: ResidentConfig,
    remote_judge.KIND: RemoteConfig,
    calibrated_judge.KIND: CalibratedConfig,
    ensemble.KIND: EnsembleConfig,
}


def check_judge_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError if values are of no judge or out of their limits; no file is read."""
    config = _config_of(values)
    parts = config.judges if isinstance(config, EnsembleConfig) else ()
    for part in (config.judge,) if isinstance(config, CalibratedConfig) else parts:
        check_judge_values(part)


def load_judge(
    values: Mapping[str, Any], device: torch.device, poll: Callable[[], None] = lambda: None
) -> Judge:
    """Check a judge and return it; weights are read when a host first makes it resident.

    Example: ``load_judge({"folder": "bundled"}, torch.device("cpu"))``.

    Args:
        values: Of a judge, as :meth:`Judge.to_values` returns them.
        device: Where it will run.
        poll: Called while a server is waited for or a judge writes; raises to cancel.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A setting is out of its limits, or pickled or damaged weights.
        JudgeError: The checkpoint cannot judge.
    """
    config = _config_of(values)
    if isinstance(config, RemoteConfig):
        return RemoteJudge(config, poll)
    if isinstance(config, CalibratedConfig):
        return CalibratedJudge(load_judge(config.judge, device, poll), Path(config.folder))
    if isinstance(config, EnsembleConfig):
        judges = [load_judge(part, device, poll) for part in config.judges]
        return EnsembleJudge(judges, config.combine)
    if isinstance(config, ResidentConfig):
        raise JudgeError(
            f"judge {quote(config.label)} was in the memory of a ComfyUI server, and cannot be "
            "loaded from here; run this in the graph, or name a judge in a folder"
        )
    assert isinstance(config, JudgeConfig), "the table has no other kind"
    return local_judge(config, device, poll)


def _config_of(values: Mapping[str, Any]) -> JsonConfig:
    if not isinstance(values, Mapping):
        raise ValueError(f"a judge is {quote(values)}, but an object of settings is expected")
    kind = values.get("kind", LOCAL)
    if not isinstance(kind, str) or kind not in _CONFIGS:
        raise ValueError(f"kind of a judge is {quote(kind)}; choose one of: {', '.join(_CONFIGS)}")
    return _CONFIGS[kind].from_values({k: v for k, v in values.items() if k != "kind"})
