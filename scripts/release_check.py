"""Refuse what must not be published: placeholders, unreleased notes, files of development."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDER = "PUBLISHER"
IGNORE_FILE = ".comfyignore"
"""Names what ``comfy node publish`` leaves out of the archive."""
DEVELOPMENT = {".ci", ".github", "benchmarks", "docs", "lab", "scripts", "tests"}
"""Top folders that are in no package and no archive."""
MAX_LINES = 36_000
"""Python lines of the published package."""


def main() -> int:
    """Write every problem to stderr; return 1 if there is any."""
    parser = argparse.ArgumentParser(description="Refuse what must not be published.")
    parser.add_argument(
        "--archive", action="store_true", help="check the archive alone, as for a pull request"
    )
    parser.add_argument("--tag", help="refuse a tag that is not v and the project's version")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    problems = check_archive(published_files())
    if not options.archive:
        problems += [
            *check_metadata(project),
            *check_changelog(project, changelog),
            *check_files(),
        ]
    if options.tag:
        problems += check_tag(project, options.tag)
    for problem in problems:
        sys.stderr.write(f"not ready for release: {problem}\n")
    return 1 if problems else 0


def check_metadata(project: dict[str, Any]) -> list[str]:
    """Return which identities still have to be filled in by whoever publishes."""
    comfy, urls = project["tool"]["comfy"], project["project"]["urls"]
    values = {"[tool.comfy] PublisherId": comfy["PublisherId"]}
    values |= {f"[project.urls] {name}": url for name, url in urls.items()}
    values |= {f"[tool.comfy] {name}": comfy[name] for name in ("Icon", "Banner") if name in comfy}
    return [
        f"{name} is the placeholder {value!r}; set your own"
        for name, value in values.items()
        if not value or PLACEHOLDER in value
    ]


def check_tag(project: dict[str, Any], tag: str) -> list[str]:
    """Return whether a tag belongs to another version.

    Args:
        project: Content of pyproject.toml.
        tag: Name of the tag that is published, such as ``v1.2.3``.
    """
    version = project["project"]["version"]
    return [] if tag == f"v{version}" else [f"the tag is {tag}, but the version is {version}"]


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


def published_files() -> list[Path]:
    """Return the files of the published archive, below the repository's root."""
    files = _git_files()
    ignored = set(_git_files("--ignored", f"--exclude-from={IGNORE_FILE}"))
    return [path for path in files if path not in ignored and (ROOT / path).is_file()]


def check_archive(files: list[Path]) -> list[str]:
    """Return whether the archive holds what only developers need, or too much.

    Args:
        files: Below the repository's root.
    """
    problems = [
        f"{name}/ would be published; add it to {IGNORE_FILE}"
        for name in sorted(DEVELOPMENT & {path.parts[0] for path in files})
    ]
    sources = [ROOT / path for path in files if path.suffix == ".py"]
    num_lines = sum(len(path.read_text("utf-8").splitlines()) for path in sources)
    if num_lines > MAX_LINES:
        problems.append(f"the package has {num_lines} lines of Python, more than {MAX_LINES}")
    return problems


def _git_files(*options: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", *options]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(line) for line in output.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
