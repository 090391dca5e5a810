"""Which settings a run goes on with: its own, and the defaults of those that came later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.runs.directory import RunDirectory


def test_a_run_that_began_before_a_setting_existed_has_its_default(tmp_path: Path) -> None:
    config = JudgeTrainConfig(run_folder=str(tmp_path / "run"), preferences_folder="data")
    RunDirectory(config)
    stored = tmp_path / "run/config.json"
    values = json.loads(stored.read_text("utf-8"))
    del values["contradictions"], values["rank"]
    stored.write_text(json.dumps(values))
    RunDirectory(config)
    assert json.loads(stored.read_text("utf-8"))["contradictions"] == "keep"
    stored.write_text(json.dumps(values))
    other_config = JudgeTrainConfig(
        run_folder=str(tmp_path / "run"), preferences_folder="data", contradictions="drop"
    )
    with pytest.raises(ValueError, match=r"other settings .*contradictions: None -> 'drop'"):
        RunDirectory(other_config)
    stored.write_text(json.dumps(values | {"seed": 7}))
    with pytest.raises(ValueError, match="seed: 7 -> 0"):
        RunDirectory(config)
