"""Cancel, and several jobs at once."""

from __future__ import annotations

from support.client import ComfyClient, Event, Graph
from support.edits import EditGraph


def long_graph(example: str, seed: int) -> Graph:
    g = EditGraph()
    image = g.add("LoadImage", image=example)
    g.show(g.add_edit("Fill", image, settings={"steps": 1000}, seed=seed))
    return g.graph


def short_graph(example: str, seed: int, task: str = "Fill") -> Graph:
    g = EditGraph()
    g.show(g.add_edit(task, g.add("LoadImage", image=example), seed=seed))
    return g.graph


def is_mid_step(event: Event) -> bool:
    return event.kind == "progress" and 3 < event.data["value"] < event.data["max"]


def test_cancel_in_mid_step(client: ComfyClient, example: str):
    with client.listen() as listener:
        prompt_id = client.queue(long_graph(example, 1))
        listener.until(is_mid_step)
        client.interrupt(prompt_id)
        job = listener.finish(prompt_id)
    assert job.was_interrupted
    assert job.error is None
    after = client.run(short_graph(example, 2))
    assert after.succeeded, after.error


def test_a_running_edit_shows_previews(client: ComfyClient, example: str):
    with client.listen() as listener:
        prompt_id = client.queue(long_graph(example, 3))
        preview = listener.until(lambda event: event.kind == "preview_with_metadata")
        client.interrupt(prompt_id)
        listener.finish(prompt_id)
    assert b"\xff\xd8\xff" in preview.data  # a JPEG


def test_two_jobs_queued_at_once(client: ComfyClient, example: str):
    with client.listen() as listener:
        jobs = [
            client.queue(short_graph(example, 20 + n, t)) for n, t in ((0, "Fill"), (1, "Text"))
        ]
        ended = [listener.finish(prompt_id) for prompt_id in jobs]
    assert [job.succeeded for job in ended] == [True, True]


def test_cancel_of_the_running_job_lets_the_queued_one_run(client: ComfyClient, example: str):
    with client.listen() as listener:
        first = client.queue(long_graph(example, 30))
        second = client.queue(short_graph(example, 31))
        listener.until(is_mid_step)
        client.interrupt(first)
        assert listener.finish(first).was_interrupted
        assert listener.finish(second).succeeded
