"""Every node's help page opens from the node, images included."""

from __future__ import annotations

import json

import pytest

from support import front_end, machine
from support.browser import Browser

PAGES = sorted((machine.ROOT / "web" / "docs").glob("*.md"))


@pytest.mark.parametrize("node", [page.stem for page in PAGES])
def test_help_page_opens(browser: Browser, node: str):
    title = browser.evaluate(f"LiteGraph.registered_node_types[{json.dumps(node)}].title")
    front_end.open_help(browser, node, title)
    assert front_end.broken_help_images(browser) == []
