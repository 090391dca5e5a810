"""What users see of ComfyUI's page, alike in every front end and in both renderers."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.browser import Browser, BrowserError
from support.client import ComfyClient, ComfyJob

RENDERERS = ("classic", "nodes2")
"""A canvas, and HTML elements ("Nodes 2.0")."""
EVERY_RENDERER = pytest.mark.parametrize("renderer", RENDERERS, indirect=True)
"""Of a test's decorators the first, so that the renderers take turns."""
NODES2_SETTING = "Comfy.VueNodes.Enabled"
NODES2_VERSION = (1, 40)
"""Older front ends only try Nodes 2.0 out: widgets that come later or take decimals are broken."""
LOCALE_SETTING = "Comfy.Locale"
TEXT_WIDGET = "onereward_text"
"""Widget, and class of the element, with what a run notes and why it stopped."""

JOB_TIMEOUT_S = 1200.0
POLL_INTERVAL_S = 0.1
SETTLED_S = 0.5
"""A page whose boxes stay this long unchanged has been laid out."""
TOLERANCE_PX = 2.0
"""Borders may share as much."""

NODES = "window.app.graph._nodes"
SETTING = "window.app.extensionManager.setting"
IMAGES_ARE_LOADED = f"""
{NODES}.every(node => (node.imgs ?? []).every(image => image.complete))
&& [...document.querySelectorAll('[data-node-id] img')].every(image => image.complete)
"""
# The canvas's nodes have no elements; a collapsed node has its own bounding.
CLASSIC_BOXES = f"{NODES}.map(node => [`${{node.id}} ${{node.title}}`, ...node.getBounding()])"
NODES2_BOXES = f"""
{NODES}.map(node => {{
  const element = document.querySelector(`[data-node-id="${{node.id}}"]`);
  const scale = window.app.canvas.ds.scale;
  const box = element.getBoundingClientRect();
  const sides = [box.left, box.top, box.width, box.height].map(side => side / scale);
  return [`${{node.id}} ${{node.title}}`, ...sides];
}})
"""
# All nodes in sight, as Nodes 2.0 draws nothing else; `margin` pixels around them.
SHOW_ALL = f"""
((maxScale, margin) => {{
  const canvas = window.app.canvas;
  const boxes = {NODES}.map(node => node.getBounding());
  const left = Math.min(...boxes.map(box => box[0]));
  const top = Math.min(...boxes.map(box => box[1]));
  const width = Math.max(...boxes.map(box => box[0] + box[2])) - left;
  const height = Math.max(...boxes.map(box => box[1] + box[3])) - top;
  const [roomX, roomY] = [innerWidth - 2 * margin, innerHeight - 2 * margin];
  const scale = Math.min(maxScale, roomX / width, roomY / height);
  canvas.ds.scale = scale;
  canvas.ds.offset[0] = margin / scale - left;
  canvas.ds.offset[1] = margin / scale - top;
  canvas.setDirty(true, true);
}})
"""

SELECT_NEW = """
(type => {
  window.app.graph.clear();
  const node = LiteGraph.createNode(type);
  window.app.graph.add(node);
  window.app.canvas.selectNode(node);
})"""
INFO_BUTTON = """document.querySelector('[data-testid="info-button"]')"""
HELP = "document.querySelector('.node-help-content')"
HELP_IMAGES = f"[...{HELP}.querySelectorAll('img')]"


@dataclass(frozen=True, kw_only=True)
class NodeBox:
    """A node's rectangle with its title bar, in the graph's pixels.

    Example: ``NodeBox(node="3 OneReward Fill", left=0, top=0, right=400, bottom=300)``.
    """

    node: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, box: NodeBox) -> bool:
        """Tell whether two nodes cover a common area."""
        width = min(self.right, box.right) - max(self.left, box.left)
        height = min(self.bottom, box.bottom) - max(self.top, box.top)
        return width > TOLERANCE_PX and height > TOLERANCE_PX


def version(browser: Browser) -> tuple[int, ...]:
    """Return the open front end's version."""
    text = browser.evaluate("window.__COMFYUI_FRONTEND_VERSION__")
    return tuple(int(part) for part in text.split(".")[:3])


def change_setting(browser: Browser, name: str, value: Any) -> None:
    """Change one of the front end's settings, as the settings dialog does."""
    browser.evaluate(f"{SETTING}.set({json.dumps(name)}, {json.dumps(value)}).then(() => null)")


def skip_unfinished(browser: Browser, renderer: str) -> None:
    """Skip a test of widgets where the front end does not yet draw all of them."""
    if renderer == "nodes2" and version(browser) < NODES2_VERSION:
        pytest.skip("this front end only tries Nodes 2.0 out")


def use_renderer(browser: Browser, renderer: str) -> None:
    """Choose one of ``RENDERERS`` for the open page."""
    is_wanted = renderer == "nodes2"
    if bool(browser.evaluate(f"{SETTING}.get({json.dumps(NODES2_SETTING)})")) != is_wanted:
        change_setting(browser, NODES2_SETTING, is_wanted)


def load(browser: Browser, template: Path) -> None:
    """Load a template, and wait until all its nodes are laid out."""
    browser.load_workflow(json.loads(template.read_text("utf-8")), template.stem)
    show_all(browser)
    boxes(browser)


def show_all(browser: Browser, max_scale: float = 1.0, margin_px: int = 60) -> None:
    """Move and shrink the graph until every node is in sight."""
    browser.evaluate(f"{SHOW_ALL}({max_scale}, {margin_px})")


def boxes(browser: Browser) -> list[NodeBox]:
    """Return every node's rectangle, once images are loaded and nothing grows any more."""
    is_nodes2 = browser.evaluate(f"{SETTING}.get({json.dumps(NODES2_SETTING)})")
    if is_nodes2:
        browser.wait_for(f"document.querySelectorAll('[data-node-id]').length >= {NODES}.length")
    browser.wait_for(IMAGES_ARE_LOADED)
    rows: list[list[Any]] = []
    since = time.monotonic()
    while not rows or time.monotonic() - since < SETTLED_S:
        newest = browser.evaluate(NODES2_BOXES if is_nodes2 else CLASSIC_BOXES)
        if newest != rows:
            rows, since = newest, time.monotonic()
        time.sleep(POLL_INTERVAL_S)
    return [
        NodeBox(node=node, left=left, top=top, right=left + width, bottom=top + height)
        for node, left, top, width, height in rows
    ]


def overlaps(browser: Browser) -> list[tuple[str, str]]:
    """Return the pairs of nodes that cover a common area."""
    pairs = itertools.combinations(boxes(browser), 2)
    return [(first.node, second.node) for first, second in pairs if first.overlaps(second)]


def run(browser: Browser, client: ComfyClient) -> ComfyJob:
    """Press the Run button, so to speak, and wait for the job's end and its results on the page."""
    before = set(client.get("/history"))
    # Older front ends answer false and no errors when all went well, newer ones true.
    refusal = browser.evaluate(
        "window.app.queuePrompt(0).then("
        "isQueued => isQueued ? '{}' : JSON.stringify(window.app.lastNodeErrors ?? null))"
    )
    if refusal != "{}":
        raise BrowserError(f"the front end refused the workflow: {refusal}")
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while not (finished := set(client.get("/history")) - before):
        if time.monotonic() > deadline:
            raise BrowserError(f"the job did not end in {JOB_TIMEOUT_S:.0f} s")
        time.sleep(POLL_INTERVAL_S)
    (prompt_id,) = finished
    history = client.history(prompt_id)
    assert history is not None, "it is in the list"
    job = ComfyJob(prompt_id=prompt_id, history=history)
    outputs = json.dumps(sorted(job.outputs))
    browser.wait_for(f"{outputs}.every(id => window.app.nodeOutputs[id])")
    return job


def open_help(browser: Browser, node_type: str, heading: str) -> None:
    """Select a new node and press its info button, unless a panel shows its help already.

    Args:
        browser: The open page.
        node_type: Id of the node's class.
        heading: What the help page begins with.
    """
    is_shown = f"{HELP}?.querySelector('h1')?.innerText.trim() === {json.dumps(heading)}"
    browser.evaluate(f"{SELECT_NEW}({json.dumps(node_type)})")
    browser.wait_for(f"{INFO_BUTTON} || {is_shown}")
    browser.evaluate(f"({is_shown}) || {INFO_BUTTON}.click()")
    browser.wait_for(is_shown)


def broken_help_images(browser: Browser) -> list[str]:
    """Return the addresses of images in the open help page that cannot be shown."""
    browser.wait_for(f"{HELP_IMAGES}.every(image => image.complete)")
    return browser.evaluate(
        f"{HELP_IMAGES}.filter(image => !image.naturalWidth).map(image => image.src)"
    )
