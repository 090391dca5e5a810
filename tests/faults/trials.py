"""Runs of a writer in which one thing goes wrong, and what is left after the next run.

A trial forks from this process, which has the libraries and models in memory, lets a fault happen
in the child, and lets a second child run to the end. Its folder must then equal that of a run
without a fault, byte for byte, but for times (see :func:`contents`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .durable_state import restore
from .file_shim import (
    DATA,
    FULL,
    HALF,
    POWER,
    READS,
    SYNCS,
    UNREADABLE,
    Fault,
    FileOperation,
    FileShim,
)

LIMIT = 300
"""Most characters of a message."""
TEMPORARY = re.compile(r"\.(tmp|new|old)$|^\.|onereward-(tmp|old|new)")
"""What a name looks like that nobody should find after a run."""
_TIMED = re.compile(rb'"seconds": [0-9.e+-]+')


@dataclass(frozen=True)
class Writer:
    """What is tried. Example: ``Writer("save", save, lambda root: None)``."""

    name: str
    write: Callable[[Path], None]
    """Writes to a folder, and goes on where it was stopped."""
    prepare: Callable[[Path], None]
    """Puts into the folder what is there before."""


@dataclass
class ChildOutcome:
    """How a run ended. Example: ``ChildOutcome(is_killed=True)``."""

    is_killed: bool = False
    error: str = ""
    """What a user would read; empty: none."""
    trace: str = ""
    log: list[FileOperation] = field(default_factory=list)
    operation: str = ""
    """At which the fault came."""

    @property
    def is_clean(self) -> bool:
        return not self.is_killed and not self.error


@dataclass
class Trial:
    """What came of one trial; empty lists and texts are good."""

    writer: str
    faults: list[Fault]
    operations: list[str]
    error: str = ""
    different: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    """After an error, before the next run: temporaries that it has left."""
    complaint: str = ""
    """What is wrong with the message, or that the next run failed."""

    @property
    def is_good(self) -> bool:
        return not (self.different or self.leftover or self.torn or self.complaint)

    def text(self) -> str:
        faults = ", then ".join(
            f"{fault.kind} at {fault.at} ({operation})"
            for fault, operation in zip(self.faults, self.operations, strict=True)
        )
        parts = [f"{self.writer}: {faults}"]
        for name in ("different", "leftover", "torn", "complaint", "error"):
            if value := getattr(self, name):
                parts.append(f"  {name}: {value}")
        return "\n".join(parts)


class Trials:
    """The trials of one writer. Example: ``Trials(shim, writer, spool).run(Fault(KILL, 3))``."""

    def __init__(self, shim: FileShim, writer: Writer, spool: Path) -> None:
        """Run the writer twice without a fault: to warm up, and to see what it leaves."""
        self.shim, self.name, self.write, self.spool = shim, writer.name, writer.write, spool
        self.prepare = writer.prepare
        self._count = 0
        root = self._fresh()
        self.write(root)  # what is imported or cached now need not be by every child
        root = self._fresh()
        first = self._run(root)
        if not first.is_clean:
            raise RuntimeError(f"{self.name} fails without a fault: {first.error}\n{first.trace}")
        self.log = first.log
        self.log_texts = [operation.text(root) for operation in first.log]
        self.log_root = root
        self.expected = contents(root)

    def faults(self, kinds: tuple[str, ...]) -> list[Fault]:
        """Return every fault of some kinds that can happen in a run."""
        return [
            Fault(kind, at)
            for kind in kinds
            for at, operation in enumerate(self.log)
            if _can_happen(kind, operation)
        ]

    def run(self, *faults: Fault) -> Trial:
        """Let each fault happen in a run of its own, then run to the end and compare."""
        root, trial = self._fresh(), Trial(self.name, list(faults), [])
        for fault in faults:
            outcome = self._run(root, fault)
            trial.operations.append(outcome.operation)
            if not outcome.is_killed:
                self._check_ending(trial, outcome, root)
        last = self._run(root)
        if not last.is_clean:
            trial.complaint += f" the next run fails: {last.error}\n{last.trace}"
        after = contents(root)
        trial.leftover = sorted(after.keys() - self.expected.keys())
        trial.different = sorted(
            name for name, data in self.expected.items() if after.get(name) != data
        )
        if trial.is_good:
            shutil.rmtree(root)
        return trial

    def _check_ending(self, trial: Trial, outcome: ChildOutcome, root: Path) -> None:
        trial.error = outcome.error
        names = [path.name for path in root.rglob("*")]
        trial.torn += sorted(name for name in names if TEMPORARY.search(name))
        if not outcome.error:
            return
        if len(outcome.error) > LIMIT or "\n" in outcome.error:
            trial.complaint += " the message is long"
        if outcome.error.startswith(("[Errno", "I/O error")):
            trial.complaint += " the message is the system's"

    def _fresh(self) -> Path:
        self._count += 1
        root = self.spool / f"{self._count:06d}"  # of one length, so that headers stay aligned
        root.mkdir(parents=True)
        self.prepare(root)
        return root

    def _run(self, root: Path, fault: Fault | None = None) -> ChildOutcome:
        """Run the writer in a child; its log and its error come back in a file."""
        answer, words = self.spool / "answer.json", self.spool / "last-words.txt"
        state = self.spool / "durable" if fault and fault.kind == POWER else None
        if state is not None:
            shutil.rmtree(state, ignore_errors=True)
        # The child.
        child = os.fork()
        if child == 0:
            self.shim.last_words = words
            _be_child(self.shim, self.write, root, fault, state, answer)
        _, status = os.waitpid(child, 0)
        # Killed, by the fault or by something else.
        if os.WIFSIGNALED(status):
            if os.WTERMSIG(status) != signal.SIGKILL:
                return ChildOutcome(error=f"signal {os.WTERMSIG(status)}")
            if state is not None:
                restore(state, root)
            return ChildOutcome(is_killed=True, operation=words.read_text())
        # Ended by itself.
        values = json.loads(answer.read_text())
        log = [FileOperation(*entry) for entry in values["log"]]
        at = fault.at if fault else 0
        operation = log[at].text(root) if at < len(log) else "after the end"
        return ChildOutcome(False, values["error"], values["trace"], log, operation)


def _can_happen(kind: str, operation: FileOperation) -> bool:
    if kind == HALF:
        return operation.kind in ("write", "tensors")
    if kind == FULL:
        return operation.kind in (*DATA, "rename", "link")
    if kind == UNREADABLE:
        return operation.kind in (*READS, *SYNCS)
    # What only reads changes nothing: a kill there is one at the next operation.
    return kind == POWER or operation.kind not in READS


def _be_child(
    shim: FileShim,
    write: Callable[[Path], None],
    root: Path,
    fault: Fault | None,
    state: Path | None,
    answer: Path,
) -> None:
    """Run the writer and write what came of it; never returns."""
    error = trace = ""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    shim.arm(root, fault, state)
    try:
        write(root)
    except BaseException as problem:  # noqa: BLE001 - whatever ends a run is looked at
        error = str(problem) or type(problem).__name__
        trace = traceback.format_exc()
    shim.is_armed = False
    log = [(entry.kind, entry.path, entry.target) for entry in shim.log]
    answer.write_text(json.dumps({"error": error, "trace": trace, "log": log}))
    os._exit(0)


def contents(root: Path) -> dict[str, bytes]:
    """Return what a folder holds, by name, without times and without its own path.

    Times are ``seconds`` in ``metrics.jsonl`` and ``state.json``. A folder is there with nothing.
    """
    tree: dict[str, bytes] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_dir():
            tree[name + "/"] = b""
            continue
        data = path.read_bytes().replace(str(root).encode(), b"<root>")
        if path.name in ("metrics.jsonl", "state.json"):
            data = _TIMED.sub(b"", data)
        tree[name] = data
    return tree


def order_faults(log: list[FileOperation], root: Path) -> list[str]:
    """Return where a run's operations could lose data in a power cut.

    A file is brought to the disk before it is renamed, and its folder after.
    """
    problems = []
    synced: set[str] = set()
    for index, operation in enumerate(log):
        if operation.kind in ("create", "write", "tensors", "truncate"):
            synced.discard(operation.path)
        elif operation.kind == "fsync":
            synced.add(operation.path)
        elif operation.kind == "rename":
            if _is_file(operation, log[:index]) and operation.path not in synced:
                problems.append(f"not on the disk before {operation.text(root)}")
            parent = os.path.dirname(operation.target)
            later = log[index + 1 :]
            if not any(entry.kind == "fsync" and entry.path == parent for entry in later):
                problems.append(f"folder not brought to the disk after {operation.text(root)}")
            if operation.path in synced:
                synced.add(operation.target)
    return problems


def _is_file(operation: FileOperation, before: list[FileOperation]) -> bool:
    return any(
        entry.path == operation.path and entry.kind in ("create", "tensors") for entry in before
    )
