"""Every node has a help page that names its inputs and outputs and shows one image."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support import machine
from support.promises import OUTPUTS, PROMISED

DOCS = machine.ROOT / "web" / "docs"
LOCALES = machine.ROOT / "locales"
CHINESE = (
    *("OneRewardFill", "OneRewardExtend", "OneRewardRemove", "OneRewardText"),
    *("OneRewardLoadModel", "OneRewardLoadAdapter", "OneRewardLoadJudge", "OneRewardLoadFolder"),
)
MAX_IMAGES_BYTES = 400_000


def sections(node_id: str, language: str = "") -> dict[str, str]:
    path = f"{node_id}/{language}.md" if language else f"{node_id}.md"
    page = (DOCS / path).read_text("utf-8")
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


def first_column(table: str) -> list[str]:
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]


def codes(text: str) -> set[str]:
    """Return what stands in code quotes: values, names and files, the same in every language."""
    return set(re.findall(r"`([^`]+)`", text))


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d{2,}", text))


def test_every_edit_and_loader_has_a_chinese_page():
    assert {(page.parent.name, page.name) for page in DOCS.glob("*/*.md")} == {
        (node_id, "zh.md") for node_id in CHINESE
    }


@pytest.mark.parametrize("node_id", CHINESE)
def test_chinese_page_says_what_the_english_one_says(node_id: str):
    page, english = sections(node_id, "zh"), sections(node_id)
    names = json.loads((LOCALES / "zh" / "nodeDefs.json").read_text("utf-8"))
    assert page["Intro"].startswith(f"# {names[node_id]['display_name']}\n")
    assert named(page["输入"]) == PROMISED[node_id]
    assert named(page["输出"]) == [label for _, label in OUTPUTS[node_id]]
    # Messages come in English; the column beside them says what to do.
    assert first_column(page["错误"]) == first_column(english["Errors"])
    for chinese, source in zip(page.values(), english.values(), strict=True):
        assert codes(source) <= codes(chinese), "a name is missing"
        assert numbers(source) == numbers(chinese)
        assert re.findall(r"]\(([^)]+)\)", chinese) == re.findall(r"]\(([^)]+)\)", source)
    display_names = {names[node_id]["display_name"] for node_id in PROMISED}
    assert set(re.findall("“(OneReward [^”]+)”", "".join(page.values()))) <= display_names


def test_images_are_small():
    images = list((DOCS / "images").iterdir())
    assert sum(Path(image).stat().st_size for image in images) < MAX_IMAGES_BYTES


def test_no_page_is_left_over():
    assert {page.stem for page in DOCS.glob("*.md")} == set(PROMISED)
