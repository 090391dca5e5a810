"""Every node's help page opens from the node, images included."""

from __future__ import annotations

import json

import pytest

from support import machine
from support.browser import Browser

PAGES = sorted((machine.ROOT / "web" / "docs").glob("*.md"))

SELECT = """
(type => {
  window.app.graph.clear();
  const node = LiteGraph.createNode(type);
  window.app.graph.add(node);
  window.app.canvas.selectNode(node);
})"""
INFO_BUTTON = """document.querySelector('[data-testid="info-button"]')"""
HELP = "document.querySelector('.node-help-content')"
IMAGES = f"[...{HELP}.querySelectorAll('img')]"


@pytest.mark.parametrize("node", [page.stem for page in PAGES])
def test_help_page_opens(browser: Browser, node: str):
    title = browser.evaluate(f"LiteGraph.registered_node_types[{json.dumps(node)}].title")
    open_help(browser, node, title)
    browser.wait_for(f"{IMAGES}.every(image => image.complete)")
    broken = f"{IMAGES}.filter(image => !image.naturalWidth).map(image => image.src)"
    assert browser.evaluate(broken) == []


def open_help(browser: Browser, node: str, heading: str) -> None:
    """Select a new node and press its info button, unless a panel shows its help already."""
    is_shown = f"{HELP}?.querySelector('h1')?.innerText.trim() === {json.dumps(heading)}"
    browser.evaluate(f"{SELECT}({json.dumps(node)})")
    browser.wait_for(f"{INFO_BUTTON} || {is_shown}")
    browser.evaluate(f"({is_shown}) || {INFO_BUTTON}.click()")
    browser.wait_for(is_shown)
