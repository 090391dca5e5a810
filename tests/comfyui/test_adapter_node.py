"""LoRA adapters in a real server."""

from __future__ import annotations

import numpy as np

from support.client import ComfyClient
from support.edits import EditGraph


def run(client: ComfyClient, example: str, *adapters: tuple[str, float]) -> np.ndarray:
    g = EditGraph()
    model = g.add_model()
    for name, strength in adapters:
        model = g.add("OneRewardLoadAdapter", model=model, adapter=name, strength=strength)
    result = g.show(g.add_edit("Fill", g.add("LoadImage", image=example), model=model, seed=40))
    job = client.run(g.graph)
    assert job.succeeded, job.error
    return np.asarray(client.image(job.images(result)[0]))


def test_an_adapter_is_listed_and_can_be_attached_and_detached(
    client: ComfyClient, example: str, adapter: str
):
    options = client.object_info("OneRewardLoadAdapter")["input"]["required"]["adapter"]
    assert adapter in str(options)
    plain = run(client, example)
    once = run(client, example, (adapter, 1.0))
    assert not np.array_equal(once, plain)
    assert np.array_equal(run(client, example, (adapter, 0.25), (adapter, 0.75)), once)
    assert np.array_equal(run(client, example, (adapter, 0.0)), plain)
    assert np.array_equal(run(client, example), plain)
