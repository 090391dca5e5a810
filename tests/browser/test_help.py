"""Every node's help page opens in the front end, pictures included."""

from __future__ import annotations

import json

import pytest

from support import machine
from support.browser import STORES, Browser

PAGES = sorted((machine.ROOT / "web" / "docs").glob("*.md"))

OPEN_HELP = f"""
(name => {{
  const stores = {STORES};
  if (stores.get('sidebarTab').activeSidebarTabId !== 'node-library')
    stores.get('sidebarTab').toggleSidebarTab('node-library');
  stores.get('nodeHelp').openHelp(stores.get('nodeDef').nodeDefsByName[name]);
}})"""
HELP = "document.querySelector('.node-help-content')"
PICTURES = f"[...{HELP}.querySelectorAll('img')]"


@pytest.mark.parametrize("node", [page.stem for page in PAGES])
def test_help_page_opens(browser: Browser, node: str):
    title = browser.evaluate(f"LiteGraph.registered_node_types[{json.dumps(node)}].title")
    browser.evaluate(f"{OPEN_HELP}({json.dumps(node)})")
    browser.wait_for(f"{HELP}?.querySelector('h1')?.innerText.trim() === {json.dumps(title)}")
    browser.wait_for(f"{PICTURES}.every(picture => picture.complete)")
    broken = f"{PICTURES}.filter(picture => !picture.naturalWidth).map(picture => picture.src)"
    assert browser.evaluate(broken) == []
