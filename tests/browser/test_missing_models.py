"""Who opens a template without its model files is offered each of them for download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browser import Browser
from support.server import ComfyServer
from support.workflows import FOLDER, missing_nodes

TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.json") if not path.stem.startswith("Demo"))
PATIENCE_S = 20.0

# Newer front ends show a notice first, older ones a dialog at once.
BUTTONS = "[...document.querySelectorAll('button')].filter(button => button.checkVisibility())"
NOTICE = f"{BUTTONS}.find(button => /view details/i.test(button.innerText))"
DOWNLOADS = f"{BUTTONS}.filter(button => /^download\\b(?! all)/i.test(button.innerText.trim()))"
TEXT = "document.body.innerText"

# Remembers what a download would open, and opens nothing.
RECORD_LINKS = """
window.opened = [];
window.open = url => { window.opened.push(String(url)); return null; };
HTMLAnchorElement.prototype.click = function () { window.opened.push(this.href); };
null
"""

# Some front ends ask the Hub for a file's size, and without an answer open its page instead.
ANSWER_AS_THE_HUB = """
const ask = window.fetch;
window.fetch = (request, options) => String(request.url ?? request).startsWith('https://hug')
  ? Promise.resolve(new Response(null, {status: 200, headers: {'content-length': '1'}}))
  : ask(request, options);
"""


def models_of(template: Path) -> list[dict[str, str]]:
    """Return the name, url and directory of every model that a template's nodes name."""
    nodes: list[dict[str, Any]] = json.loads(template.read_text("utf-8"))["nodes"]
    return [model for node in nodes for model in node["properties"].get("models", [])]


@pytest.fixture(scope="module")
def without_models(browser: Browser, comfyui: ComfyServer) -> Iterator[None]:
    """The model files are not there, and the Hub answers; both end with the tests."""
    folder = comfyui.base_directory / "models"
    models = [model for name in TEMPLATES for model in models_of(FOLDER / f"{name}.json")]
    files = sorted({folder / model["directory"] / model["name"] for model in models})
    laid = [path for path in files if path.exists()]
    for path in laid:
        path.rename(path.with_suffix(".away"))
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=ANSWER_AS_THE_HUB)
    try:
        yield
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", **script)
        for path in laid:
            path.with_suffix(".away").rename(path)
        browser.open_front_end(comfyui.url)


@pytest.fixture
def fresh(without_models: None, browser: Browser, comfyui: ComfyServer) -> Browser:
    """The page as it starts, without what an earlier template has opened."""
    browser.evaluate("localStorage.clear(); sessionStorage.clear(); null")
    browser.open_front_end(comfyui.url)
    return browser


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_missing_model_has_a_download(fresh: Browser, name: str):
    browser, template = fresh, FOLDER / f"{name}.json"
    types = browser.evaluate("Object.keys(LiteGraph.registered_node_types)")
    if missing := missing_nodes(template, dict.fromkeys(types)):
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")
    models = models_of(template)
    assert models
    browser.load_workflow(json.loads(template.read_text("utf-8")), template.stem)
    browser.wait_for(f"{NOTICE} || {DOWNLOADS}.length", PATIENCE_S)
    browser.evaluate(f"{NOTICE}?.click()")
    browser.wait_for(f"{DOWNLOADS}.length === {len(models)}", PATIENCE_S)
    text = browser.evaluate(TEXT)
    assert [model["name"] for model in models if model["name"] not in text] == []
    browser.evaluate(RECORD_LINKS)
    browser.evaluate(f"{DOWNLOADS}.forEach(button => button.click())")
    urls = {model["url"] for model in models}
    browser.wait_for(f"window.opened.length >= {len(urls)}", PATIENCE_S)
    assert set(browser.evaluate("window.opened")) == urls
