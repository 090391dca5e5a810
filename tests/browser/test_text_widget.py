"""What a run notes, and why it was refused, stands on the node and stays there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import front_end
from support.browser import Browser
from support.client import ComfyClient
from support.front_end import EVERY_RENDERER
from support.server import EXAMPLE
from support.workflows import FOLDER

TEMPLATE = FOLDER / "Demo - fill.json"
UNKNOWN_WORDS = "a wizard with a hat"
"""None that the bundled model knows."""

SET_WIDGET = f"""
((type, name, value) => {{
  const node = {front_end.NODES}.find(node => node.type === type);
  node.widgets.find(widget => widget.name === name).value = value;
}})"""
# The visible notes that lie inside their node, by the node's type.
NOTES = f"""
Object.fromEntries({front_end.NODES}.flatMap(node => {{
  const widget = node.widgets?.find(widget => widget.name === '{front_end.TEXT_WIDGET}');
  return widget?.element.checkVisibility() ? [[node.type, widget.element.innerText]] : [];
}}))"""


@pytest.fixture
def fill(browser: Browser, renderer: str) -> Iterator[Browser]:
    """The page with a template; a dialog that a test leaves open is closed."""
    front_end.skip_unfinished(browser, renderer)
    front_end.load(browser, TEMPLATE)
    yield browser
    browser.press("Escape")


def set_widget(browser: Browser, node: str, name: str, value: str) -> None:
    browser.evaluate(f"{SET_WIDGET}{(node, name, value)!r}")


@EVERY_RENDERER
def test_notes_stay_on_the_node(fill: Browser, client: ComfyClient):
    client.free()  # a node whose result comes from the cache has no notes
    set_widget(fill, "OneRewardFill", "prompt", UNKNOWN_WORDS)
    job = front_end.run(fill, client)
    assert job.succeeded, job.error
    texts = [" ".join(output.get("text") or []) for output in job.outputs.values()]
    (notes,) = [text for text in texts if "wizard" in text]
    fill.wait_for(f"({NOTES}).OneRewardFill")
    front_end.boxes(fill)  # the page is at rest
    assert fill.evaluate(f"({NOTES}).OneRewardFill").split() == notes.split()


@EVERY_RENDERER
def test_a_refusal_stands_on_the_node(fill: Browser, client: ComfyClient):
    set_widget(fill, "LoadImage", "image", EXAMPLE)  # opaque: its mask is empty
    job = front_end.run(fill, client)
    assert job.error is not None
    assert "mask is empty" in job.error
    fill.wait_for(f"({NOTES}).OneRewardFill")
    assert job.error in fill.evaluate(f"({NOTES}).OneRewardFill")
