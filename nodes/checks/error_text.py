"""What a user reads when a node fails: one sentence, and never the text of a programming fault."""

from __future__ import annotations

import dis
import errno
from pathlib import Path
from types import TracebackType

import comfy.model_management as mm

from ...fill.io.json_text import label_of, shorten

MAX_SENTENCE = 700
"""Characters; few sentences need 300, but a list of files to get is longer."""
_ROOT = str(Path(__file__).parents[2])
_FAULTS = (
    *(LookupError, AttributeError, TypeError, NameError, AssertionError, ArithmeticError),
    *(UnicodeError, NotImplementedError, RecursionError, StopIteration),
)
"""Kinds of errors that nobody raises to tell a user something."""
_ADVICE = {
    errno.ENOSPC: "free some space and run again",
    errno.EACCES: "give ComfyUI the right to use it",
    errno.EPERM: "give ComfyUI the right to use it",
    errno.EROFS: "choose a folder that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle: remove them",
}


def user_error(error: Exception, node: str) -> Exception:
    """Return an error as the user shall read it: itself, if it is a sentence of ours.

    Example: ``user_error(KeyError("x"), "OneReward Fill")`` says that it should not happen.

    Args:
        error: What a node raised.
        node: The node's name.
    """
    if _is_out_of_memory(error):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        what = label_of(Path(str(error.filename))) if error.filename else "a file"
        reason = (error.strerror or type(error).__name__).lower()
        advice = _ADVICE.get(error.errno, "look at it, and run again")
        return OSError(shorten(f"{what} cannot be used ({reason}); {advice}"))
    if _is_refusal(error):
        text = str(error)
        if len(text) > MAX_SENTENCE:
            error.args = (shorten(text, MAX_SENTENCE),)
        return error
    first = shorten(str(error), 120)
    return RuntimeError(
        f"{node} stopped with {type(error).__name__}{f': {first}' if first else ''}; this should "
        "not happen: please report it with the lines above in ComfyUI's log"
    )


def _is_out_of_memory(error: Exception) -> bool:
    kinds = (MemoryError, mm.OOM_EXCEPTION)
    is_told = isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    return isinstance(error, kinds) or is_told


def _is_refusal(error: Exception) -> bool:
    """Tell whether a ``raise`` of this pack raised it, not a library or a fault in our lines."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or isinstance(error, _FAULTS):
        return False
    code = last.tb_frame.f_code
    instruction = dis.opname[code.co_code[last.tb_lasti]]
    return code.co_filename.startswith(_ROOT) and instruction in ("RAISE_VARARGS", "RERAISE")
