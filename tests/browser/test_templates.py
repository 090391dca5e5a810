"""Every template in the real front end: it exports what we ship, fits, and runs untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import front_end
from support.browser import Browser
from support.client import ComfyClient
from support.front_end import EVERY_RENDERER
from support.graph import load_graph
from support.server import PACK_FOLDER
from support.workflows import api_path, missing_nodes, runs_here, templates

EVERY_TEMPLATE = pytest.mark.parametrize("template", templates(), ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def node_types(browser: Browser) -> set[str]:
    """The types of nodes that the running server has."""
    return set(browser.evaluate("Object.keys(LiteGraph.registered_node_types)"))


@pytest.fixture
def page(browser: Browser, renderer: str, template: Path, node_types: set[str]) -> Browser:
    """The page with the template, drawn by one of the renderers."""
    if missing := missing_nodes(template, dict.fromkeys(node_types)):
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")
    front_end.load(browser, template)
    types = browser.evaluate(f"{front_end.NODES}.map(node => node.type)")
    assert set(types) <= node_types
    return browser


def test_plugin_causes_no_error_at_page_load(browser: Browser):
    errors = browser.errors_at_load
    assert not [line for line in errors if PACK_FOLDER in line or "OneReward" in line]


def test_templates_are_in_the_template_browser(browser: Browser):
    by_pack = browser.evaluate("fetch('/workflow_templates').then(answer => answer.json())")
    assert {path.stem for path in templates()} <= set(by_pack[PACK_FOLDER])


@EVERY_RENDERER
@EVERY_TEMPLATE
def test_template_fits_and_exports_the_api_workflow(page: Browser, template: Path):
    assert front_end.overlaps(page) == []
    exported = page.export_api()
    assert exported == load_graph(api_path(template))
    saved = page.evaluate("JSON.stringify(window.app.graph.serialize())")
    page.load_workflow(json.loads(saved), template.stem)
    assert page.export_api() == exported, "it survives saving and loading"


# For each template one renderer after the other, so that the second takes results from the cache.
@EVERY_RENDERER
@EVERY_TEMPLATE
def test_template_runs_untouched_and_fits(
    page: Browser, renderer: str, client: ComfyClient, template: Path
):
    front_end.skip_unfinished(page, renderer)
    if not runs_here(template):
        pytest.skip("this checkout lacks a model that the template names")
    num_errors = len(page.console)
    job = front_end.run(page, client)
    assert job.succeeded, job.error
    assert job.images()
    assert front_end.overlaps(page) == []
    assert page.console[num_errors:] == []
