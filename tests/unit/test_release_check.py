"""The release check refuses what only a publisher can decide."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib

from support.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]


release_check = load_script("release_check")


def project(publisher: str, repository: str) -> dict:
    return {
        "project": {"version": "1.2.3", "urls": {"Repository": repository}},
        "tool": {"comfy": {"PublisherId": publisher}},
    }


def test_placeholders_of_this_repository_are_refused():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    problems = release_check.check_metadata(metadata)
    places = ("PublisherId", "Repository", "Documentation", "Bug Tracker", "Icon", "Banner")
    assert len(problems) == len(places)
    assert all(place in problem for place, problem in zip(places, problems, strict=True))


def test_real_identities_are_accepted():
    assert not release_check.check_metadata(project("somebody", "https://example.org/somebody/x"))


@pytest.mark.parametrize(("tag", "num_problems"), [("v1.2.3", 0), ("1.2.3", 1), ("v1.2.4", 1)])
def test_a_tag_is_that_of_the_version(tag: str, num_problems: int):
    assert len(release_check.check_tag(project("p", "r"), tag)) == num_problems


@pytest.mark.parametrize(
    ("heading", "is_ready"),
    [
        ("## 1.2.3 - 2030-01-31", True),
        ("## 1.2.3 - unreleased", False),
        ("## 1.2.30 - 2030-01-31", False),
    ],
)
def test_version_needs_a_dated_entry(heading: str, is_ready: bool):
    text = f"# Changelog\n\n{heading}\n"
    assert (release_check.check_changelog(project("p", "r"), text) == []) is is_ready


def test_the_archive_holds_the_package_only():
    files = release_check.published_files()
    assert {"fill", "kernels", "locales", "nodes", "reward", "training", "web", "workflows"} <= {
        path.parts[0] for path in files
    }
    assert release_check.check_archive(files) == []


def test_files_of_development_and_too_many_lines_are_refused(monkeypatch: pytest.MonkeyPatch):
    files = [Path("tests/conftest.py"), Path("lab/oracle.py"), Path("__init__.py")]
    problems = release_check.check_archive(files)
    assert [problem.partition(" ")[0] for problem in problems] == ["lab/", "tests/"]
    monkeypatch.setattr(release_check, "MAX_LINES", 3)
    (problem,) = release_check.check_archive([Path("__init__.py")])
    assert "more than 3" in problem
