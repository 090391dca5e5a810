"""Every node's help page opens in the front end, images included."""

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
IMAGES = f"[...{HELP}.querySelectorAll('img')]"


@pytest.mark.parametrize("node", [page.stem for page in PAGES])
def test_help_page_opens(browser: Browser, node: str):
    title = browser.evaluate(f"LiteGraph.registered_node_types[{json.dumps(node)}].title")
    browser.evaluate(f"{OPEN_HELP}({json.dumps(node)})")
    browser.wait_for(f"{HELP}?.querySelector('h1')?.innerText.trim() === {json.dumps(title)}")
    browser.wait_for(f"{IMAGES}.every(image => image.complete)")
    broken = f"{IMAGES}.filter(image => !image.naturalWidth).map(image => image.src)"
    assert browser.evaluate(broken) == []
