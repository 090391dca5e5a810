"""Command-line tools of other people accept the pack and run its workflows."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from support import machine
from support.scripts import load_script
from support.server import ComfyServer
from support.workflows import FOLDER, api_workflows, runs_here

TOOLS = machine.ROOT / ".cache" / "tools-venv" / "bin"
TIMEOUT_S = 300
FRONT_END_FORMAT = [FOLDER / f"{name}.json" for name in ("Fill a photo", "Demo - score")]
"""Read by comfy-cli too, which turns them into API format itself."""

pytestmark = pytest.mark.skipif(
    not (TOOLS / "comfy").exists(), reason="comfy-cli is not set up; run `make setup`"
)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has never used the tools."""
    search_path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"HOME": str(tmp_path), "PATH": search_path, "DO_NOT_TRACK": "1"}


def run_tool(
    *command: str, environment: dict[str, str], folder: Path = machine.ROOT
) -> tuple[str, str]:
    """Run a tool that must succeed; return what it wrote to stdout and stderr."""
    process = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, f"{process.stdout}\n{process.stderr}"
    return process.stdout, process.stderr


@pytest.mark.parametrize(
    "workflow",
    list(filter(runs_here, FRONT_END_FORMAT + api_workflows())),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_comfy_cli_runs_every_workflow_untouched(
    workflow: Path, comfyui: ComfyServer, home: dict[str, str]
):
    address = ("--host", "127.0.0.1", "--port", str(comfyui.port))
    run = ("run", "--workflow", str(workflow), "--wait", *address)
    answer, _ = run_tool("comfy", "--skip-prompt", "--json", *run, environment=home)
    envelope = json.loads(answer.splitlines()[-1])
    assert envelope["ok"], envelope
    assert envelope["data"]["status"] == "completed"
    assert envelope["data"]["outputs"], "the workflow shows no image"


def test_comfy_lint_finds_nothing(comfyui: ComfyServer, home: dict[str, str]):
    paths = [str(path) for path in filter(runs_here, api_workflows())]
    assert paths
    run_tool("comfy-lint", "--strict", "--server", comfyui.url, *paths, environment=home)


def test_comfy_node_validate_passes(home: dict[str, str]):
    answer = "".join(run_tool("comfy", "--skip-prompt", "node", "validate", environment=home))
    assert "All validation checks passed" in answer
    assert "warning" not in answer.lower()


def test_published_pack_holds_what_users_need(tmp_path: Path, home: dict[str, str]):
    clone = tmp_path / "clone"
    run_tool("git", "clone", "--quiet", str(machine.ROOT), str(clone), environment=home)
    run_tool("comfy", "--skip-prompt", "node", "pack", environment=home, folder=clone)
    with zipfile.ZipFile(clone / "node.zip") as archive:
        names = set(archive.namelist())
    assert {"__init__.py", "LICENSE", "pyproject.toml", "requirements.txt"} <= names
    shipped = {name.split("/")[0] for name in names}
    assert {"assets", "fill", "nodes", "subgraphs", "web", "workflows"} <= shipped
    assert not shipped & load_script("release_check").DEVELOPMENT
    pages = {f"web/docs/{page.name}" for page in (clone / "web" / "docs").glob("*.md")}
    assert pages
    assert pages <= names
