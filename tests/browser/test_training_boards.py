"""The board of a training node: one picture, on the node itself, that stays after the job."""

from __future__ import annotations

import json

from support import front_end
from support.browser import Browser
from support.client import ComfyClient
from support.front_end import EVERY_RENDERER, NODES
from support.workflows import FOLDER

TRAIN = f"{NODES}.find(node => node.type === 'OneRewardTrainJudge')"
NUM_PICTURES = {
    "classic": f"{TRAIN}.imgs?.length",
    "nodes2": f"document.querySelectorAll(`[data-node-id='${{{TRAIN}.id}}'] img`).length",
}


@EVERY_RENDERER
def test_a_training_board_is_drawn_once(browser: Browser, renderer: str, client: ComfyClient):
    front_end.load(browser, FOLDER / "Demo - train a judge.json")
    # A run of its own: what is taken from the cache has had no live preview.
    name = json.dumps(f"board-in-{renderer}")
    browser.evaluate(f"{TRAIN}.widgets.find(w => w.name === 'name').value = {name}")
    job = front_end.run(browser, client)
    assert job.succeeded, job.error
    node = str(browser.evaluate(f"{TRAIN}.id"))
    assert len(job.images(node)) == 1, "in the job's history, too"
    front_end.show_all(browser)
    front_end.boxes(browser)
    browser.wait_for(f"{NUM_PICTURES[renderer]} === 1", 10)
