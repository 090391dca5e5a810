"""GitHub's workflows: they call what exists, pin what they use, and may do little."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ("checks.yml", "publish.yml")
ON = True
"""The key ``on``, which YAML 1.1 reads as a boolean."""
OURS = {".venv/bin/python": "the virtual environment", "python": "setup-python"}
PROGRAMS = {".venv/bin/pytest": "pytest", ".cache/tools-venv/bin/comfy": "comfy-cli"}
"""What ``make setup`` installs, by the package that brings it."""


def read(name: str) -> dict[Any, Any]:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job["steps"]]


def commands(name: str) -> list[list[str]]:
    return [shlex.split(line) for s in steps(name) if "run" in s for line in s["run"].splitlines()]


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def check_make(arguments: list[str]) -> None:
    assert arguments[0] in make_targets()
    variables = {argument.partition("=")[0] for argument in arguments[1:]}
    assert variables <= set(re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.M))


def check_script(arguments: list[str]) -> None:
    script, *options = arguments
    answer = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], check=True, capture_output=True, text=True
    )
    assert all(option in answer.stdout for option in options if option.startswith("--"))


def check_program(program: str) -> None:
    exact = (ROOT / "tests" / "requirements.txt").read_text("utf-8").splitlines()
    installed = [*exact, *load_script("setup_env").TOOLS]
    assert any(line.startswith(f"{PROGRAMS[program]}==") for line in installed)


def test_no_workflow_is_unknown():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str):
    assert commands(name)
    for program, *arguments in commands(name):
        if program == "make":
            check_make(arguments)
        elif program in OURS:
            check_script(arguments)
        else:
            check_program(program)


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned_and_rights_are_least(name: str):
    workflow = read(name)
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    actions = [step for step in steps(name) if "uses" in step]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", s["uses"]) for s in actions)
    checkouts = [s for s in actions if s["uses"].startswith("actions/checkout@")]
    assert checkouts
    assert all(s["with"]["persist-credentials"] is False for s in checkouts)


def test_only_a_tag_publishes_and_only_then_is_the_secret_read():
    assert read("publish.yml")[ON] == {"push": {"tags": ["v*"]}}
    assert "secrets." not in (FOLDER / "checks.yml").read_text("utf-8")
    assert set(read("checks.yml")[ON]) == {"pull_request", "push"}


def test_nothing_is_published_that_the_release_check_refuses():
    names = [step.get("uses", step.get("run", "")) for step in steps("publish.yml")]
    (check,) = (i for i, name in enumerate(names) if "release_check.py" in name)
    (publish,) = (i for i, name in enumerate(names) if "publish-node-action" in name)
    assert check < publish
    assert "--archive" not in names[check]


def test_every_python_that_runs_the_set_up_is_tested():
    lowest, highest = load_script("setup_env").PYTHONS
    versions = read("checks.yml")["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    assert versions == [f"3.{minor}" for minor in range(lowest[1], highest[1] + 1)]
