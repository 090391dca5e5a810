"""With ComfyUI in Chinese, our nodes, their inputs and their help are Chinese."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support import front_end, machine
from support.browser import Browser
from support.server import ComfyServer

LOCALE = "zh"
WORDS = json.loads((machine.ROOT / "locales" / LOCALE / "nodeDefs.json").read_text("utf-8"))
PAGES = sorted((machine.ROOT / "web" / "docs").glob(f"*/{LOCALE}.md"))

TITLES = """
Object.fromEntries(Object.entries(LiteGraph.registered_node_types)
  .filter(([type]) => type.startsWith('OneReward')).map(([type, node]) => [type, node.title]))
"""
# What a new node calls its inputs, widgets and sockets alike.
LABELS = """
(type => {
  const node = LiteGraph.createNode(type);
  const names = [...node.inputs ?? [], ...node.widgets ?? []]
    .map(input => [input.name, input.localized_name ?? input.label ?? input.name]);
  return Object.fromEntries(names);
})"""


@pytest.fixture(scope="module")
def chinese(browser: Browser, comfyui: ComfyServer) -> Iterator[Browser]:
    """The page in Chinese; it is English again afterwards."""
    front_end.change_setting(browser, front_end.LOCALE_SETTING, LOCALE)
    browser.open_front_end(comfyui.url)
    yield browser
    front_end.change_setting(browser, front_end.LOCALE_SETTING, "en")
    browser.open_front_end(comfyui.url)


def test_titles_are_chinese(chinese: Browser):
    titles = chinese.evaluate(TITLES)
    assert titles == {node: words["display_name"] for node, words in WORDS.items()}


@pytest.mark.parametrize("node", WORDS)
def test_inputs_are_chinese(chinese: Browser, node: str):
    labels = chinese.evaluate(f"{LABELS}({json.dumps(node)})")
    expected = {name: words["name"] for name, words in WORDS[node].get("inputs", {}).items()}
    assert expected.items() <= labels.items()


@pytest.mark.parametrize("node", [page.parent.name for page in PAGES])
def test_help_is_chinese(chinese: Browser, node: str):
    page = machine.ROOT / "web" / "docs" / node / f"{LOCALE}.md"
    heading = page.read_text("utf-8").splitlines()[0].removeprefix("# ").strip()
    front_end.open_help(chinese, node, heading)
    assert front_end.broken_help_images(chinese) == []
