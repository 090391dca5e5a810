"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onereward import cli

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
    listed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.is_file() for path in listed)
    expected = {path for path in (ROOT / folder).glob("*.json") if path.name != "index.json"}
    assert set(listed) == expected


def test_unknown_command_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["paint"])
    assert ended.value.code == 2
    assert "workflows" in capsys.readouterr().err


def test_module_runs_as_a_program(tmp_path: Path):
    command = [sys.executable, "-m", "onereward", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
