"""A file with a record per line that grows while it is read: every line is parsed once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from ...fill.io.json_text import MAX_LIST_BYTES, label_of, parse_object, shorten


class GrowingFile:
    """Yields what has been appended since it was last read; notices any other change.

    Example: ``begins_anew, records = GrowingFile(path).news()``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def news(self) -> tuple[bool, list[dict[str, Any]]]:
        """Return whether these are all records, so that earlier ones are void, and the new ones.

        A last line without its line break is still being written, or torn: it waits.

        Raises:
            ValueError: A line is no JSON object; names file and line.
            OSError: It cannot be read; names it.
        """
        data = b""
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_size > MAX_LIST_BYTES:
                    raise ValueError(f"{label_of(self.path)} is larger than 512 MB; split the data")
                if not self._continues(file, stat):
                    self._forget()
                    self._inode = stat.st_ino
                file.seek(self._end)
                data = file.read()
        except FileNotFoundError:
            self._forget()
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"{label_of(self.path)} cannot be read ({reason})") from error
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        records = [self._parse(n, line) for n, line in enumerate(lines, self._num) if line.strip()]
        is_all = self._end == 0
        if lines:
            self._end += sum(map(len, lines))
            self._num += len(lines)
            self._last = lines[-1]
        return is_all, records

    def start_again(self) -> None:
        """Give all records again at the next call."""
        self._forget()

    def cut(self, size: int) -> None:
        """Forget the last line, of so many bytes, which the caller has cut off the file."""
        self._end -= size
        self._num -= 1
        self._last = b""  # what stands before it has been read, and is still there

    def _continues(self, file: BinaryIO, stat: os.stat_result) -> bool:
        """Whether what has been read is still what the file begins with."""
        file.seek(self._end - len(self._last))
        last = file.read(len(self._last))
        return stat.st_ino == self._inode and stat.st_size >= self._end and last == self._last

    def _forget(self) -> None:
        self._end, self._num, self._last, self._inode = 0, 1, b"", 0

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            return parse_object(line.decode("utf-8-sig"))
        except ValueError as error:
            raise ValueError(shorten(f"{label_of(self.path)}, line {number}: {error}")) from error
