"""What a run in progress can be asked for from outside: a file in its folder, taken within a step.

``touch runs/mine/requests/evaluate`` evaluates after the step just done; ``stop`` ends the run as
if its time were up, with a checkpoint and a result, and the graph goes on with what was learned.
"""

from __future__ import annotations

from pathlib import Path

from ...fill.io.writing import make_folder, remove

FOLDER = "requests"
EVALUATE, STOP = REQUESTS = ("evaluate", "stop")


def ask(run: Path, request: str) -> None:
    """Ask a run for something; asking twice is asking once.

    Raises:
        ValueError: There is no such request.
        WriteError: The folder cannot be written.
    """
    if request not in REQUESTS:
        raise ValueError(f"request is {request[:40]!r}; choose one of: {', '.join(REQUESTS)}")
    make_folder(run / FOLDER)
    (run / FOLDER / request).touch()


def take(run: Path, request: str) -> bool:
    """Return whether a run was asked for something, and forget it."""
    path = run / FOLDER / request
    if not path.exists():
        return False
    path.unlink(missing_ok=True)
    return True


def forget_all(run: Path) -> None:
    """Forget what was asked of an earlier process."""
    remove(run / FOLDER)
