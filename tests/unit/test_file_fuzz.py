"""No damaged file hangs or crashes: it is read, or refused in one sentence that names it.

The usual run takes some 25 seconds; ``HYPOTHESIS_PROFILE=long`` gives every format the minutes of
``FUZZ_MINUTES`` (60) in all. Both print counts with ``-s``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from support.damaged_files import damaged
from support.file_formats import file_formats
from support.format_entry import FileFormat
from support.sentences import is_sentence

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
MINUTES = float(os.environ.get("FUZZ_MINUTES", "60"))
MAX_SECONDS = 20
"""Of one reading, before it counts as hung; the slowest valid one takes a quarter of a second."""
FORMATS = file_formats()
SECONDS = 60 * MINUTES / len(FORMATS) if IS_LONG else 0.3
"""Of one format."""


class Hung(BaseException):
    """Raised out of a reading that does not end."""


@contextmanager
def alarm() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(file_format: FileFormat, folder: Path) -> str:
    """Return what reading comes to: read, refused, opaque or hung, the latter two with details."""
    try:
        with alarm():
            file_format.read(folder)
    except Hung:
        return "hung"
    except (ValueError, OSError, RuntimeError) as error:
        if is_sentence(error, file_format.name):
            return "refused"
        return f"opaque: {type(error).__name__}: {str(error)[:400]}"
    except Exception as error:  # noqa: BLE001 - what no reader may raise
        return f"opaque: {type(error).__name__}: {str(error)[:400]}"
    return "read"


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no timer on this system")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    file_format = FORMATS[name]
    # The valid files, and how long reading one takes.
    valid_folder, folder = tmp_path / "valid", tmp_path / "folder"
    folder.mkdir()
    file_format.write(folder)
    valid = (folder / file_format.file).read_bytes()
    shutil.copytree(folder, valid_folder, symlinks=True)
    file_format.read(folder)
    start = time.monotonic()
    file_format.read(folder)
    cost = time.monotonic() - start + 0.004
    counts: Counter[str] = Counter()

    @settings(
        max_examples=max(int(SECONDS / cost), 8),
        deadline=None,
        database=None,
        derandomize=not IS_LONG,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.large_base_example),
    )
    @given(contents=damaged(file_format.kind, valid))
    def check(contents: bytes) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(valid_folder, folder, symlinks=True)
        path = folder / file_format.file
        path.unlink()
        path.write_bytes(contents)
        result = outcome(file_format, folder)
        counts[result.partition(":")[0]] += 1
        assert result in ("read", "refused"), result

    try:
        check()
    finally:
        total = sum(counts.values())
        sys.stderr.write(f"\n{name}: {total} tried, {dict(counts)}\n")
