"""Number widgets show the value that they hold, and take what is typed."""

from __future__ import annotations

import json

from support import front_end
from support.browser import Browser
from support.front_end import EVERY_RENDERER

NODE = "OneRewardSettings"
WIDGET = "denoise"
TYPED = 0.25

# Our nodes' decimal widgets that show another number than they hold.
ROUNDED = """
Object.entries(LiteGraph.registered_node_types)
  .filter(([type]) => type.startsWith('OneReward'))
  .flatMap(([type]) => {
    const node = LiteGraph.createNode(type);
    return (node.widgets ?? [])
      .filter(widget => typeof widget.value === 'number' && widget.options.precision !== undefined)
      .filter(({ value, options }) => Number(value.toFixed(options.precision)) !== value)
      .map(widget => `${type}.${widget.name}`);
  })
"""
ADD_NODE = f"""
(() => {{
  window.app.graph.clear();
  const node = LiteGraph.createNode('{NODE}');
  window.app.graph.add(node);
  return String(node.id);
}})()"""
VALUE = (
    f"{front_end.NODES}.find(n => n.type === '{NODE}')"
    f".widgets.find(w => w.name === '{WIDGET}').value"
)
# Where the widget is in the window, once it was drawn.
CLASSIC_PLACE = f"""
(() => {{
  const node = {front_end.NODES}.find(n => n.type === '{NODE}');
  const widget = node.widgets.find(w => w.name === '{WIDGET}');
  const {{ scale, offset }} = window.app.canvas.ds;
  const canvas = window.app.canvas.canvas.getBoundingClientRect();
  const x = (node.pos[0] + 0.5 * node.size[0] + offset[0]) * scale + canvas.left;
  const y = (node.pos[1] + widget.last_y + 10 + offset[1]) * scale + canvas.top;
  return [x, y];
}})()"""
DIALOG = "document.querySelector('.graphdialog input')"
# Nodes 2.0 orders the inputs as the node's widgets; a label comes before each.
NODES2_INPUT = f"""
(() => {{
  const label = [...document.querySelectorAll('[data-node-id] *')].find(
    e => !e.children.length && e.textContent.trim() === '{WIDGET}');
  let row = label;
  while (row && !row.querySelector('input')) row = row.parentElement;
  return row?.querySelector('input');
}})()"""


def test_every_default_can_be_shown(browser: Browser):
    assert browser.evaluate(ROUNDED) == []


@EVERY_RENDERER
def test_a_typed_value_is_shown_and_kept(browser: Browser, renderer: str):
    front_end.skip_unfinished(browser, renderer)
    browser.evaluate(ADD_NODE)
    front_end.show_all(browser)
    front_end.boxes(browser)
    if renderer == "classic":
        browser.click(*browser.evaluate(CLASSIC_PLACE))
        browser.wait_for(DIALOG)
        browser.evaluate(f"{DIALOG}.select()")
    else:
        browser.evaluate(f"{NODES2_INPUT}.focus()")
        browser.evaluate(f"{NODES2_INPUT}.select()")
    browser.type_text(str(TYPED))
    browser.press("Enter")
    browser.wait_for(f"{VALUE} === {TYPED}", timeout_s=10)
    saved = browser.evaluate("JSON.stringify(window.app.graph.serialize())")
    browser.load_workflow(json.loads(saved), "settings")
    front_end.boxes(browser)
    assert browser.evaluate(VALUE) == TYPED
    if renderer == "nodes2":
        assert float(browser.evaluate(f"{NODES2_INPUT}.value")) == TYPED
