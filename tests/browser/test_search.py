"""Users find our nodes by the words that they know."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.browser import Browser

WORDS = {
    "inpaint": "OneRewardFill",
    "inpainting": "OneRewardFill",
    "generative fill": "OneRewardFill",
    "replace": "OneRewardFill",
    "outpaint": "OneRewardExtend",
    "outpainting": "OneRewardExtend",
    "uncrop": "OneRewardExtend",
    "erase": "OneRewardRemove",
    "remove object": "OneRewardRemove",
    "write text": "OneRewardText",
    "text rendering": "OneRewardText",
    "crop and stitch": "OneRewardStitch",
    "reward model": "OneRewardLoadJudge",
    "best of n": "OneRewardPickBest",
    "LoRA training": "OneRewardTrain",
}
"""What is typed, and a node that is among the answers."""

COMMAND = "window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
INPUT = "document.activeElement?.matches('input[role=combobox]')"
TEXTS = "[...document.querySelectorAll('span, b, div, li')].filter(e => !e.children.length)"
ALIASES = "LiteGraph.registered_node_types.OneRewardFill.nodeData.search_aliases"


@pytest.fixture
def search_box(browser: Browser) -> Iterator[Browser]:
    """The page with the box that a double click on the canvas opens."""
    if not browser.evaluate(f"Boolean({ALIASES}?.length)"):
        pytest.skip("this ComfyUI's nodes have no search words")
    browser.evaluate(f"{COMMAND}.then(() => null)")
    browser.wait_for(INPUT)
    yield browser
    browser.press("Escape")
    browser.wait_for(f"!({INPUT})")


@pytest.mark.parametrize(("words", "node"), WORDS.items())
def test_words_find_our_node(search_box: Browser, words: str, node: str):
    title = search_box.evaluate(f"LiteGraph.registered_node_types[{json.dumps(node)}].title")
    search_box.type_text(words)
    search_box.wait_for(
        f"{TEXTS}.some(e => e.textContent.trim() === {json.dumps(title)} && e.checkVisibility())",
        timeout_s=10,
    )
