"""Refuse what must not be published: placeholders, unreleased notes, uncommitted files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "PUBLISHER"


def main() -> int:
    """Write every problem to stderr; return 1 if there is any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    problems = [*check_metadata(project), *check_changelog(project, changelog), *check_files()]
    for problem in problems:
        sys.stderr.write(f"not ready for release: {problem}\n")
    return 1 if problems else 0


def check_metadata(project: dict[str, Any]) -> list[str]:
    """Return which identities still have to be filled in by whoever publishes."""
    values = {
        "[tool.comfy] PublisherId": project["tool"]["comfy"]["PublisherId"],
        "[project.urls] Repository": project["project"]["urls"]["Repository"],
    }
    return [
        f"{name} is the placeholder {value!r}; set your own"
        for name, value in values.items()
        if not value or PLACEHOLDER in value
    ]


def check_changelog(project: dict[str, Any], changelog: str) -> list[str]:
    """Return whether this version's notes carry a date."""
    version = project["project"]["version"]
    if re.search(rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        return []
    return [f"CHANGELOG.md has no dated entry '## {version} - YYYY-MM-DD'"]


def check_files() -> list[str]:
    """Return whether the working tree differs from the commit that would be published."""
    command = ["git", "status", "--porcelain"]
    status = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return ["there are uncommitted changes"] if status.strip() else []


if __name__ == "__main__":
    sys.exit(main())
