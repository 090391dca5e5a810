"""Names of folders and files that come from outside: what every file system can hold."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

MAX_CHARACTERS = 100
"""Of a plain name."""
MAX_BYTES = 200
"""Of a plain name in UTF-8: file systems take 255, and endings such as ``.safetensors.tmp`` follow.
"""
MAX_PART_BYTES = 255
_PLAIN = re.compile(r"\w[\w .-]*")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
"""What Windows takes for a device, with any ending."""
_UNUSABLE = re.compile("[\x00-\x1f\ud800-\udfff]")
"""Control characters, and halves of characters that UTF-8 cannot hold."""


def check_name(name: str, what: str = "name") -> None:
    """Raise ValueError unless this can be the name of a folder or file everywhere.

    Example: ``check_name("my-data")``.
    """
    is_plain = bool(_PLAIN.fullmatch(name)) and not name.endswith((".", " "))
    if not is_plain or len(name) > MAX_CHARACTERS:
        raise ValueError(
            f"{what} is {name[:40]!r}, but up to {MAX_CHARACTERS} letters, digits, spaces, '.', "
            "'_' and '-' are expected, with a letter or digit first and none of '.' and space last"
        )
    if (size := len(name.encode())) > MAX_BYTES:
        raise ValueError(
            f"{what} is {name[:20]!r}... of {size} bytes, but file systems take {MAX_BYTES}; "
            "letters beyond ASCII count 2 to 4: shorten it"
        )
    if _DEVICES.fullmatch(name):
        raise ValueError(f"{what} is {name!r}, which Windows takes for a device; choose another")


def check_file_name(name: str, what: str = "file") -> None:
    """Raise ValueError unless this names a file below a folder, with ``/`` between levels.

    Example: ``check_file_name("images/kite.png")``.
    """
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if not name or windows.drive or windows.root or posix.root or ".." in windows.parts:
        raise ValueError(
            f"{what} is {name[:60]!r}, which leaves the folder; name a file inside the folder"
        )
    if _UNUSABLE.search(name) or any(len(part.encode()) > MAX_PART_BYTES for part in posix.parts):
        raise ValueError(
            f"{what} is {name[:60]!r}, which is too long or has characters that no file's name "
            "can have"
        )
