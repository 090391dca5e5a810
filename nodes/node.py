"""The base of every node: what a run notes, and why it stops, stands on the node."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import comfy.model_management as mm
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

EVENT = "onereward.text"
"""Message to the front end: ``{"node": id, "text": [notes], "is_error": bool}``."""
HEAD, TAIL = 4, 8
"""Notes of a run that are kept: its first and its last."""


class Notes:
    """The notes of one run; those between the first and the last few are only counted.

    Example: ``notes = Notes("7"); notes.add("step 10: loss 0.5")``.

    Args:
        node_id: Id of the node that shows them; None: they are not shown.
    """

    def __init__(self, node_id: str | None = None) -> None:
        self._node_id = node_id
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._num_dropped = 0

    def add(self, note: str) -> bool:
        """Keep a note and show it; return False for one that is there already."""
        if note in self._head or note in self._tail:
            return False
        if len(self._head) < HEAD:
            self._head.append(note)
        else:
            self._num_dropped += len(self._tail) == TAIL
            self._tail.append(note)
        self.show()
        return True

    def kept(self) -> list[str]:
        """Return the first and the last notes, with the number of those between."""
        between = [f"... {self._num_dropped} more ..."] if self._num_dropped else []
        return [*self._head, *between, *self._tail]

    def show(self, error: str = "") -> None:
        """Send the notes, and an error that follows them, to whoever has queued the job."""
        server = getattr(PromptServer, "instance", None)
        if self._node_id is None or server is None or server.client_id is None:
            return
        text = [*self.kept(), *([error] if error else [])]
        message = {"node": self._node_id, "text": text, "is_error": bool(error)}
        server.send_sync(EVENT, message, server.client_id)


_NOTES: ContextVar[Notes | None] = ContextVar("onereward_notes", default=None)


def current_notes(node_id: str | None) -> Notes:
    """Return the notes of the node that is running, or new ones outside of a node."""
    return _NOTES.get() or Notes(node_id)


def refusal(check: Callable[[], object]) -> bool | str:
    """Return True, or the sentence with which a check refuses, for ``validate_inputs``.

    Example: ``return refusal(lambda: name is None or work_folder(KIND, name))``; the value of a
    linked input is None.
    """
    try:
        check()
    except (ValueError, OSError) as error:
        return str(error)
    return True


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are known before the queue: those of linked inputs are None."""
    return {name: value for name, value in values.items() if value is not None}


class OneRewardNode(io.ComfyNode):
    """Adds to what a node returns the notes of its run, and shows an error before it is raised.

    Subclasses implement ``define_schema`` and ``execute`` as for ``io.ComfyNode``; the output's
    ``ui`` gains ``text``, a list of notes. ``validate_inputs`` of one input returns the sentence;
    of several it raises, as ComfyUI repeats what is returned for each of them.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        execute = cls.__dict__.get("execute")
        # ComfyUI copies a class for each run; what is copied has been wrapped.
        if execute is not None and not hasattr(execute.__func__, "__wrapped__"):
            setattr(cls, "execute", classmethod(_noted(execute.__func__)))  # noqa: B010


def _noted(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    @functools.wraps(execute)
    def run(cls: type[OneRewardNode], *args: Any, **values: Any) -> io.NodeOutput:
        context = get_executing_context()
        notes = Notes(context.node_id if context else None)
        token = _NOTES.set(notes)
        try:
            output = execute(cls, *args, **values)
        except mm.InterruptProcessingException:
            raise
        except Exception as error:
            notes.show(str(error).strip() or type(error).__name__)
            raise
        finally:
            _NOTES.reset(token)
        # The same keys from every run: ComfyUI joins those of the images of a list.
        ui: Any = output.ui
        output.ui = {**(ui or {}), "text": notes.kept()}
        return output

    return run
