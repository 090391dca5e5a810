"""Every template in the real front end: it loads, exports what we ship, and runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from support.browser import Browser
from support.client import ComfyClient, ComfyJob
from support.graph import load_graph
from support.server import PACK_FOLDER
from support.workflows import API_FOLDER, runs_here, templates

JOB_TIMEOUT_S = 300.0
POLL_INTERVAL_S = 0.1

REGISTRY = "https://api.comfy.org/"
"""The front end looks node versions up there, which `--disable-api-nodes` forbids it."""

EVERY_TEMPLATE = pytest.mark.parametrize("template", templates(), ids=lambda path: path.stem)


def test_plugin_causes_no_error_at_page_load(browser: Browser):
    errors = browser.console[: browser.num_errors_at_load]
    assert not [line for line in errors if PACK_FOLDER in line or "OneReward" in line]


def test_templates_are_in_the_template_browser(browser: Browser):
    by_pack = browser.evaluate("fetch('/workflow_templates').then(answer => answer.json())")
    assert {path.stem for path in templates()} <= set(by_pack[PACK_FOLDER])


@EVERY_TEMPLATE
def test_template_exports_the_api_workflow(browser: Browser, template: Path):
    load(browser, template)
    assert browser.export_api() == load_graph(API_FOLDER / template.name)


@EVERY_TEMPLATE
def test_template_survives_saving_and_loading(browser: Browser, template: Path):
    load(browser, template)
    exported = browser.export_api()
    saved = browser.evaluate("JSON.stringify(window.app.graph.serialize())")
    browser.load_workflow(json.loads(saved), template.stem)
    assert browser.export_api() == exported


@EVERY_TEMPLATE
def test_template_runs_from_the_front_end(browser: Browser, client: ComfyClient, template: Path):
    if not runs_here(template):
        pytest.skip("the bundled judge is not in this checkout")
    num_errors = len(browser.console)
    load(browser, template)
    job = queue(browser, client)
    assert job.succeeded, job.error
    assert job.images()
    errors = browser.console[num_errors:]
    assert [line for line in errors if REGISTRY not in line] == []


def load(browser: Browser, template: Path) -> None:
    browser.load_workflow(json.loads(template.read_text("utf-8")), template.stem)
    missing = "window.app.graph._nodes.filter(node => node.has_errors).map(node => node.type)"
    assert browser.evaluate(missing) == []


def queue(browser: Browser, client: ComfyClient) -> ComfyJob:
    """Press the Run button, so to speak, and wait for the job's end."""
    before = set(client.get("/history"))
    errors = "window.app.queuePrompt(0).then(() => JSON.stringify(window.app.lastNodeErrors ?? {}))"
    assert browser.evaluate(errors) == "{}", "the front end refused the workflow"
    deadline = time.monotonic() + JOB_TIMEOUT_S
    while not (finished := set(client.get("/history")) - before):
        assert time.monotonic() < deadline, f"the job did not end in {JOB_TIMEOUT_S:.0f} s"
        time.sleep(POLL_INTERVAL_S)
    (prompt_id,) = finished
    history = client.history(prompt_id)
    assert history is not None
    return ComfyJob(prompt_id=prompt_id, history=history)
