"""Commands in the laboratory's pages exist: their modules, their configs, their links."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.machine import ROOT

PAGES = [ROOT / "lab" / "README.md", *sorted((ROOT / "lab" / "notes").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_modules_files_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m (onereward[\w.]*\w)", text.replace("\n", " ")))
    assert modules
    assert [name for name in modules if find_spec(name) is None] == []
    configs = re.findall(r"\blab/[\w/]+\.(?:json|py)\b", text)
    links = re.findall(r"\]\(([^)#]+)", text)
    paths = [ROOT / name for name in configs] + [page.parent / link for link in links]
    assert [path for path in paths if not path.exists()] == []
