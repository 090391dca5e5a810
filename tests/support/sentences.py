"""What a refusal has to be: one short sentence that says which file."""

from __future__ import annotations

MAX_CHARACTERS = 300
_OPAQUE = (
    *("object has no attribute", "NoneType", "Traceback", "Errno", "unexpected keyword"),
    *("not subscriptable", "unhashable", "embedded null", "codec can't", "Expecting value"),
    *("positional argument", "InvalidHeader", "list index out of range", "must be str"),
)
"""Words of Python and of libraries about themselves."""


def is_sentence(error: BaseException, name: str) -> bool:
    """Tell whether an error is one line of plain words that holds a file's name."""
    text = str(error)
    is_short = 10 <= len(text) <= MAX_CHARACTERS and "\n" not in text
    is_plain = not any(word in text for word in _OPAQUE)
    return is_short and is_plain and name in text
