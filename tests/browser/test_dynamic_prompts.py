"""The front end makes the choices in a prompt, as it does in ComfyUI's own text encoder."""

from __future__ import annotations

import pytest

from support.browser import Browser

QUEUED = """
(async () => {{
  window.app.graph.clear();
  const node = LiteGraph.createNode('{node}');
  node.widgets.find(w => w.name === '{widget}').value = '{prompt}';
  window.app.graph.add(node);
  const {{ output }} = await window.app.graphToPrompt();
  return Object.values(output)[0].inputs.{widget};
}})()"""


@pytest.mark.parametrize(
    ("node", "widget"),
    [
        ("OneRewardFill", "prompt"),
        ("OneRewardExtend", "prompt"),
        ("OneRewardText", "text_style"),
        ("OneRewardNativeInputs", "prompt"),
    ],
)
def test_one_of_the_words_in_braces_is_queued(browser: Browser, node: str, widget: str):
    script = QUEUED.format(node=node, widget=widget, prompt="a {red|blue} cup")
    assert browser.evaluate(script) in ("a red cup", "a blue cup")


@pytest.mark.parametrize("node", ["OneRewardText", "OneRewardNativeInputs"])
def test_letters_to_write_stay_as_they_are(browser: Browser, node: str):
    script = QUEUED.format(node=node, widget="text", prompt="{A|B}")
    assert browser.evaluate(script) == "{A|B}"
