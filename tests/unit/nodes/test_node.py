"""What every node adds to its run: its notes, and the sentence of an error."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def messages(nodes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, str]]:
    """What is sent to the front end of the client "c": event, message, client."""
    messages: list[tuple[str, Any, str]] = []
    server = SimpleNamespace(client_id="c", send_sync=lambda *message: messages.append(message))
    monkeypatch.setattr(nodes.node.PromptServer, "instance", server, raising=False)
    return messages


def make_node(nodes: ModuleType, body: Any) -> Any:
    """A node without inputs that runs the function."""
    from comfy_api.latest import io

    class RunsBody(nodes.node.OneRewardNode):
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(node_id="RunsBody", outputs=[io.Int.Output("n", display_name="n")])

        @classmethod
        def execute(cls) -> Any:
            return body(nodes.comfy_host.ComfyHost("7"))

    return RunsBody


def run(node: Any) -> Any:
    """Run a node as ComfyUI does: on a locked copy of its class, inside its context."""
    from comfy_api.internal import make_locked_method_func
    from comfy_execution.utils import CurrentNodeContext

    call = make_locked_method_func(node, node.FUNCTION, node.PREPARE_CLASS_CLONE({}))
    node.GET_SCHEMA()
    with CurrentNodeContext("p", "7", 0):
        return call()


def test_notes_are_shown_at_once_and_returned(nodes: ModuleType, messages: list[Any]):
    from comfy_api.latest import io

    def body(host: Any) -> Any:
        for note in ("one", "two", "one"):
            host.notify(note)
        return io.NodeOutput(5, ui={"onereward": [{"seeds": [1]}]})

    output = run(make_node(nodes, body))
    assert output.args == (5,)
    assert output.ui == {"onereward": [{"seeds": [1]}], "text": ["one", "two"]}
    assert [(event, m["node"], m["text"], m["is_error"]) for event, m, _ in messages] == [
        ("onereward.text", "7", ["one"], False),
        ("onereward.text", "7", ["one", "two"], False),
    ]
    assert {client for *_, client in messages} == {"c"}


def test_a_run_without_notes_returns_the_same_keys(nodes: ModuleType):
    from comfy_api.latest import io

    assert run(make_node(nodes, lambda _host: io.NodeOutput(1))).ui == {"text": []}


def test_an_error_follows_the_notes_and_is_raised(nodes: ModuleType, messages: list[Any]):
    def body(host: Any) -> Any:
        host.notify("one")
        raise ValueError("mask is empty; paint the area to repaint")

    with pytest.raises(ValueError, match="mask is empty"):
        run(make_node(nodes, body))
    assert messages[-1][1] == {
        "node": "7",
        "text": ["one", "mask is empty; paint the area to repaint"],
        "is_error": True,
    }


def test_cancel_is_no_error(nodes: ModuleType, messages: list[Any]):
    from comfy.model_management import InterruptProcessingException

    def body(_host: Any) -> Any:
        raise InterruptProcessingException

    with pytest.raises(InterruptProcessingException):
        run(make_node(nodes, body))
    assert messages == []


def test_a_long_run_keeps_its_first_and_last_notes(nodes: ModuleType):
    notes = nodes.node.Notes()
    for n in range(100):
        notes.add(f"step {n}")
    first, last = [f"step {n}" for n in range(4)], [f"step {n}" for n in range(92, 100)]
    assert notes.kept() == [*first, "... 88 more ...", *last]


def test_every_node_has_the_base(nodes: ModuleType):
    import asyncio

    classes = asyncio.run(nodes.OneRewardExtension().get_node_list())
    assert all(issubclass(node, nodes.node.OneRewardNode) for node in classes)
    assert all(node.execute.__func__.__wrapped__ for node in classes)
