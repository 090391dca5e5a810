"""What a run notes, and why it was refused, stands on the node and stays there."""

from __future__ import annotations

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
IS_IDLE = "fetch('/prompt').then(r => r.json()).then(s => !s.exec_info.queue_remaining)"


@pytest.fixture
def fill(browser: Browser, renderer: str) -> Browser:
    front_end.load(browser, TEMPLATE)
    return browser


def set_widget(browser: Browser, node: str, name: str, value: str) -> None:
    browser.evaluate(f"{SET_WIDGET}{(node, name, value)!r}")


@EVERY_RENDERER
def test_notes_stay_on_the_node(fill: Browser, client: ComfyClient):
    set_widget(fill, "OneRewardFill", "prompt", UNKNOWN_WORDS)
    job = front_end.run(fill, client)
    assert job.succeeded, job.error
    (notes,) = [output["text"] for output in job.outputs.values() if output.get("text")]
    assert "wizard" in " ".join(notes)
    fill.wait_for(f"({NOTES}).OneRewardFill")
    front_end.boxes(fill)  # the page is at rest
    shown = fill.evaluate(f"({NOTES}).OneRewardFill")
    assert shown.split() == " ".join(notes).split()


@EVERY_RENDERER
def test_a_refusal_stands_on_the_node(fill: Browser, client: ComfyClient):
    set_widget(fill, "LoadImage", "image", EXAMPLE)  # opaque: its mask is empty
    job = front_end.run(fill, client)
    assert job.error is not None
    assert "mask is empty" in job.error
    fill.wait_for(f"({NOTES}).OneRewardFill")
    assert job.error.split() == fill.evaluate(f"({NOTES}).OneRewardFill").split()
    fill.press("Escape")  # the front end's own dialog
