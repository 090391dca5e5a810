"""What a user reads when a graph is refused."""

from __future__ import annotations

from support.client import ApiError, ComfyClient, Graph


def refused(client: ComfyClient, graph: Graph, *words: str) -> None:
    """Run a graph that must fail with one sentence that holds all the words.

    The server may refuse it before it is queued, or the node when it runs: newer versions of
    ComfyUI compare a choice with its list, in words of their own; older ones leave it to the node.

    Example: ``refused(client, graph, "task", "'paint'", "fill")``.
    """
    try:
        messages = [client.run(graph).error or "it ran"]
    except ApiError as error:
        messages = error.messages()
    assert any(all(word in text for word in words) for text in messages), messages
    assert not any("\n" in text for text in messages), messages
