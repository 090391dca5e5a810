"""Every node has a help page that names its inputs and outputs and shows one image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import machine
from support.promises import OUTPUTS, PROMISED

DOCS = machine.ROOT / "web" / "docs"
MAX_IMAGES_BYTES = 400_000


def sections(node_id: str) -> dict[str, str]:
    page = (DOCS / f"{node_id}.md").read_text("utf-8")
    parts = re.split(r"^## (\w+)$", page, flags=re.MULTILINE)
    return {"Intro": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def named(table: str) -> list[str]:
    """Return what stands in code quotes in the first column."""
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize("node_id", PROMISED)
def test_page_names_every_input_and_output(node_id: str):
    page = sections(node_id)
    assert named(page["Inputs"]) == PROMISED[node_id]
    assert named(page["Outputs"]) == [label for _, label in OUTPUTS[node_id]]
    assert "| message | what to do |" in page["Errors"]


@pytest.mark.parametrize("node_id", PROMISED)
def test_page_shows_one_image_that_exists(node_id: str):
    (image,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", sections(node_id)["Intro"])
    assert (DOCS / image).is_file()


def test_images_are_small():
    images = list((DOCS / "images").iterdir())
    assert sum(Path(image).stat().st_size for image in images) < MAX_IMAGES_BYTES


def test_no_page_is_left_over():
    assert {page.stem for page in DOCS.glob("*.md")} == set(PROMISED)
