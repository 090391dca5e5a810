"""The command line."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onereward import cli
from onereward.cli.headless import STOPPED, run_headless
from onereward.fill.memory.plan import NotEnoughMemory
from onereward.reward.judge import JudgeError
from onereward.training.runs.hosts import Stopped
from onereward.training.runs.loop import NonFiniteError

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, dict[str, Any]] = {
    "generate": {"settings": {"num_candidates": 2, "steps": [2, 3], "max_conditions": 4}},
    "label": {},
    "train-judge": {"steps": 1, "batch_size": 2, "eval_pairs": 4},
    "report": {"settings": {"max_pairs": 8}},
    "calibrate": {"settings": {"max_pairs": 6}},
    "train": {"steps": 1, "batch_size": 1, "eval_every": 0},
    "evaluate": {"settings": {"num_conditions": 2}, "sampling": {"steps": 2}},
}
"""What makes the example of each command a matter of seconds."""
MAKES = {
    "generate": "preferences/generate.json",
    "label": "preferences/labels.jsonl",
    "train-judge": "judge/metrics.jsonl",
    "report": "judge-report/report.png",
    "calibrate": "judge-calibration/calibration.json",
    "train": "policy/adapter.safetensors",
    "evaluate": "evaluation/report.json",
}
DEFAULTS_OF_EXAMPLES: dict[str, dict[str, Any]] = {
    "generate": {"num_candidates": 4, "steps": [8, 30]},
    "label": {"labeller": "judge", "margin": 0.2},
    "train-judge": {"steps": 1000, "batch_size": 16, "rank": 16},
    "report": {"split": "test", "max_pairs": 0},
    "calibrate": {"method": "temperature", "min_pairs": 30, "split": "test_and_dev"},
    "train": {"steps": 8000, "batch_size": 8, "reward_cap": 0.9},
    "evaluate": {"split": "all", "margin": 0.05},
}
COMMANDS = [*SMALL, "edit", "example-config", "import-pairs", "export-pairs", "info", "workflows"]
COMMANDS += ["benchmark-judge"]


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


def onereward(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "onereward", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder from which the checkout can be imported under the package's name."""
    (tmp_path / "onereward").symlink_to(ROOT)
    return tmp_path


def write_small_config(command: str, folder: Path) -> None:
    """Write the example of a command and make it small."""
    assert onereward("example-config", command, folder=folder).stdout.strip() == f"{command}.json"
    path = folder / f"{command}.json"
    values = json.loads(path.read_text("utf-8"))
    for name, value in SMALL[command].items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(values), "utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in SMALL if name != "label"])
def test_example_configs_run(command: str, folder: Path):
    for name in ("generate", "label") if command == "generate" else (command,):
        write_small_config(name, folder)
        process = onereward(name, f"{name}.json", folder=folder)
        assert process.returncode == 0, process.stderr
        assert (folder / "onereward-work" / MAKES[name]).is_file()


@pytest.mark.parametrize("command", SMALL)
def test_an_example_config_holds_the_defaults_and_is_never_overwritten(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "new" / "mine.json"
    assert cli.main(["example-config", command, "new/mine.json"]) == 0
    written = path.read_text("utf-8")
    values = json.loads(written)
    assert values["format"] == 1
    for name, value in DEFAULTS_OF_EXAMPLES[command].items():
        assert (values["settings"] if name not in values else values)[name] == value
    assert cli.main(["example-config", command, "new/mine.json"]) == 1
    assert "mine.json is there already; choose another file" in capsys.readouterr().err
    assert path.read_text("utf-8") == written
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_examples_that_parse(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    _, _, examples = capsys.readouterr().out.partition("examples:\n")
    lines = [shlex.split(line) for line in examples.strip().splitlines()]
    assert any(line[1] == command for line in lines)
    for program, *arguments in lines:
        assert program == "onereward"
        cli.make_parser().parse_args(arguments)
