"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onereward import cli
from onereward.cli.headless import STOPPED, run_headless
from onereward.fill.memory.plan import NotEnoughMemory
from onereward.reward.judge import JudgeError
from onereward.training.runs.hosts import Stopped
from onereward.training.runs.loop import NonFiniteError

ROOT = Path(__file__).resolve().parents[2]


def test_version_is_the_projects(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    version = capsys.readouterr().out.strip()
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_info_names_versions_devices_and_assets(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["info", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["diffusers"]
    assert "cpu" in report["devices"]
    bundled = {path.parent.name for path in (ROOT / "assets").glob("*/model_index.json")}
    assert bundled <= set(report["assets"])


def test_info_is_readable_text(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["info"]) == 0
    assert "  torch: " in capsys.readouterr().out


@pytest.mark.parametrize(("options", "folder"), [([], "workflows/api"), (["--ui"], "workflows")])
def test_workflows_lists_files(options: list[str], folder: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["workflows", *options]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.is_file() for path in paths)
    expected = {path for path in (ROOT / folder).glob("*.json") if path.name != "index.json"}
    assert set(paths) == expected


def test_unknown_command_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["paint"])
    assert ended.value.code == 2
    assert "workflows" in capsys.readouterr().err


def test_module_runs_as_a_program(tmp_path: Path):
    command = [sys.executable, "-m", "onereward", "--version"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.strip()


@pytest.mark.parametrize(
    "error",
    [
        JudgeError("no judge"),
        ImportError("no such package"),
        NotEnoughMemory("less"),
        NonFiniteError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_run_that_ends_early_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> str:
        raise error

    assert run_headless(1, "folder", fail) == 1
    assert capsys.readouterr().err == f"onereward: {error}\n"


def test_a_stopped_run_says_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> str:
        raise Stopped

    assert run_headless(1, "some/run", stop) == STOPPED
    assert "the same command goes on in some/run" in capsys.readouterr().err
    with pytest.raises(ValueError, match="threads is 0, but at least 1 is expected"):
        run_headless(0, "some/run", stop)
