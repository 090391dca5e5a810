"""The base of every node: what a run notes, and why it stops, stands on the node."""

from __future__ import annotations

import functools
import inspect
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import comfy.model_management as mm
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from .checks.error_text import user_error
from .checks.input_checks import check_constants, check_inputs

EVENT = "onereward.text"
"""Message to the front end: ``{"node": id, "text": [notes], "is_error": bool}``."""
HEAD, TAIL = 4, 8
"""Notes of a run that are kept: its first and its last."""

log = logging.getLogger("onereward.nodes")


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


def refusal(check: Callable[[], object]) -> bool:
    """Return True unless a check raises, for ``validate_inputs``.

    Example: ``return refusal(lambda: name is None or work_folder(KIND, name))``; the value of a
    linked input is None.
    """
    check()
    return True


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are known before the queue: those of linked inputs are None."""
    return {name: value for name, value in values.items() if value is not None}


class OneRewardNode(io.ComfyNode):
    """Checks the inputs, adds to what a node returns the notes of its run, and shows its error.

    Subclasses implement ``define_schema`` and ``execute`` as for ``io.ComfyNode``; the output's
    ``ui`` gains ``text``, a list of notes. A ``validate_inputs`` of their own takes what it checks
    besides type and limits, and raises; who raises is shown as
    :func:`~.error_text.user_error` says.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # ComfyUI copies a class for each run; what is copied has been wrapped.
        for name, wrap in (("execute", _noted), ("validate_inputs", _checked)):
            method = cls.__dict__.get(name)
            if method is not None and not hasattr(method.__func__, "__wrapped__"):
                setattr(cls, name, classmethod(wrap(method.__func__)))

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Check before the queue what is known; raise ValueError with a sentence."""
        return _check_before_queue(cls, values)


def _display_name(node: type[io.ComfyNode]) -> str:
    return (node.SCHEMA and node.SCHEMA.display_name) or node.__name__


def _check(
    check: Callable[..., None], node: type[io.ComfyNode], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Check values by the node's schema; return those that it goes on to check by itself."""
    inputs = (node.SCHEMA or node.define_schema()).inputs
    validate = getattr(node.validate_inputs, "__wrapped__", None)
    parameters = inspect.signature(validate).parameters if validate else {}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    further = {name: value for name, value in values.items() if takes_all or name in parameters}
    check(inputs, values, further)
    return further


def _check_before_queue(
    node: type[io.ComfyNode],
    values: Mapping[str, Any],
    validate: Callable[..., bool] | None = None,
) -> bool:
    try:
        further = _check(check_constants, node, values)
        return validate(node, **further) if validate else True
    except Exception as error:
        sentence = user_error(error, _display_name(node))
        if sentence is error:
            raise
        log.exception("%s", sentence)
        raise sentence from error


def _checked(validate: Callable[..., bool]) -> Callable[..., bool]:
    # ComfyUI hands over every input, and leaves the limits to us, as it sees `**values`.
    @functools.wraps(validate)
    def run(cls: type[OneRewardNode], **values: Any) -> bool:
        return _check_before_queue(cls, values, validate)

    return run


def _noted(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    @functools.wraps(execute)
    def run(cls: type[OneRewardNode], *args: Any, **values: Any) -> io.NodeOutput:
        context = get_executing_context()
        notes = Notes(context.node_id if context else None)
        token = _NOTES.set(notes)
        try:
            _check(check_inputs, cls, values)
            output = execute(cls, *args, **values)
        except mm.InterruptProcessingException:
            raise
        except Exception as error:
            sentence = user_error(error, _display_name(cls))
            notes.show(str(sentence).strip() or type(sentence).__name__)
            if sentence is error:
                raise
            raise sentence from error
        finally:
            _NOTES.reset(token)
        # The same keys from every run: ComfyUI joins those of the images of a list.
        ui: Any = output.ui
        output.ui = {**(ui or {}), "text": notes.kept()}
        return output

    return run
