"""Every file operation of every writer is made to fail; the next run ends as if nothing had been.

A few of them are drawn by a seed, another each day, which is in the name of what fails:
``FAULTS_SEED=739220 pytest tests/faults``. All of them: ``make test-faults``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from support.machine import ROOT

SEED = int(os.environ.get("FAULTS_SEED") or date.today().toordinal())
KINDS = ("kill", "half", "full", "unreadable", "power")
QUICK = {
    **{"train": 3, "train_judge_adapter": 3, "generate": 3, "label": 4, "evaluate": 3},
    **{"report": 3, "save_adapter": 6, "pick_best": 4, "import_list": 4, "export": 4},
    **{"dataset": 4, "example_config": 6, "label_by_hand": 3},
}
"""Writers of the short version, and how many operations are tried of each."""
SLOW = ("train_all_weights", "train_whole_judge", "edit", "example_inputs")
"""Those that write many megabytes, or load their models anew."""
QUICK_SECONDS = 3.0
"""After which no further operation of a writer is tried in the short version."""
NUM_PAIRS = 40

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the trials fork")


class TrialServer:
    """The process that does the trials. Example: ``TrialServer(folder).ask(writer="train")``."""

    def __init__(self, spool: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
        self._errors = (spool / "errors.txt").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.fork_server", str(spool)],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors},
            cwd=ROOT / "tests",
            env=environment,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"seed": SEED, "kinds": KINDS, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read()[-3000:])
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate(timeout=60)
        self._errors.close()


@pytest.fixture(scope="module")
def trials() -> Iterator[TrialServer]:
    memory = Path("/dev/shm")  # trials write some gigabytes in all, which no disk has to see
    spool = Path(tempfile.mkdtemp(prefix="faults-", dir=memory if memory.is_dir() else None))
    server = TrialServer(spool)
    yield server
    server.close()
    shutil.rmtree(spool)


def check(answer: dict[str, Any]) -> None:
    assert answer["num_trials"] > 0
    assert not answer["bad"], f"FAULTS_SEED={SEED}\n" + "\n".join(answer["bad"])
    assert not answer["order"]
    assert answer["num_identical"] == answer["num_trials"]


@pytest.mark.parametrize("writer", QUICK)
def test_a_few_crash_points(trials: TrialServer, writer: str) -> None:
    check(trials.ask(writer=writer, limit=QUICK[writer], max_seconds=QUICK_SECONDS))


def test_a_careless_writer_is_noticed(trials: TrialServer) -> None:
    answer = trials.ask(writer="careless")
    bad = "\n".join(answer["bad"])
    assert "half at 1 (write settings.json)\n  different: ['settings.json']" in bad
    assert "full at 1 (write settings.json)" in bad
    assert "power at 3 (create state.json.tmp)\n  different: ['settings.json']" in bad
    assert "kill at 4 (write state.json.tmp)" not in bad  # the next run writes over it
    assert "the message is the system's" in bad
    assert answer["order"] == [
        "not on the disk before rename state.json.tmp -> state.json",
        "folder not brought to the disk after rename state.json.tmp -> state.json",
    ]


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writer", [*QUICK, *SLOW])
def test_every_crash_point(trials: TrialServer, writer: str, kind: str) -> None:
    answer = trials.ask(writer=writer, kinds=[kind])
    tell(writer, kind, answer)
    check(answer)


@pytest.mark.faults
@pytest.mark.parametrize("writer", [*QUICK, *SLOW])
def test_pairs_of_crash_points(trials: TrialServer, writer: str) -> None:
    answer = trials.ask(writer=writer, pairs=NUM_PAIRS)
    tell(writer, "pairs", answer)
    check(answer)


def tell(writer: str, kind: str, answer: dict[str, Any]) -> None:
    """Write a line of counts past pytest's capture: what the long version is run for."""
    counts = ", ".join(
        f"{answer[f'num_{name}']} {name}"
        for name in ("operations", "trials", "identical", "leftover")
    )
    line = f"\n{writer}, {kind}: {counts}, {answer['seconds']} s\n"
    sys.__stderr__.write(line) if sys.__stderr__ else None
