"""Users find the templates in the template browser, with their thumbnails, and open them there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.browser import STORES, Browser
from support.server import PACK_FOLDER
from support.workflows import templates

DIALOG = "document.querySelector('[role=dialog]')"
OPEN = "window.app.extensionManager.command.execute('Comfy.BrowseTemplates').then(() => null)"
ENTRIES = f"[...({DIALOG}?.querySelectorAll('*') ?? [])].filter(e => !e.children.length)"
OURS = f"{ENTRIES}.find(entry => entry.innerText?.trim() === {json.dumps(PACK_FOLDER)})"
CLOSE = f"{STORES}.get('dialog').closeDialog()"


def card(name: str) -> str:
    return f"""{DIALOG}?.querySelector('[data-testid="template-workflow-{name}"]')"""


@pytest.fixture
def opened(browser: Browser) -> Iterator[Browser]:
    """The page with the template browser on our templates."""
    browser.evaluate(OPEN)
    browser.wait_for(OURS)
    browser.evaluate(f"{OURS}.click()")
    browser.wait_for(card(templates()[0].stem))
    yield browser
    browser.evaluate(CLOSE)
    browser.wait_for(f"!{DIALOG}")


def test_every_template_has_a_card_with_a_thumbnail(opened: Browser):
    for template in templates():
        # Thumbnails are loaded when they come into sight.
        opened.wait_for(card(template.stem))
        opened.evaluate(f"{card(template.stem)}.scrollIntoView() ?? null")
        opened.wait_for(f"{card(template.stem)}?.querySelector('img')?.naturalWidth > 0")


def test_a_click_opens_the_template(opened: Browser):
    template = templates()[0]
    types = {node["type"] for node in json.loads(template.read_text("utf-8"))["nodes"]}
    opened.evaluate(f"{card(template.stem)}.click()")
    opened.wait_for(f"!{DIALOG}")
    types_shown = opened.evaluate("window.app.graph._nodes.map(node => node.type)")
    assert set(types_shown) == types
