"""Stages: what each needs, what it does, and the file that marks it as done.

``stages/NAME.json``: time on the clock and of the processor, and the commit of the code::

    {"seconds": 71.3, "cpu_seconds": 68.9, "commit": "53cd7554a9fa"}
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...fill.io.files import write_text
from ...training.runs.hosts import TrainingHost
from .config import ReproduceConfig

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a stage works with.

    Example: ``Context(config=config, host=TrainingHost("cpu")).result("usability")``.
    """

    config: ReproduceConfig
    host: TrainingHost
    photos: Path | None = None
    """A folder of photographs; None: section 7 is left out."""
    evaluation: str = "evaluation"
    """Where measurements go, below the run's folder; another name measures everything again."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.folder

    @property
    def minutes(self) -> float:
        """What a stage may take."""
        return self.config.stage_minutes

    def result(self, name: str) -> Path:
        """Return the file of a measurement."""
        return self.folder / self.evaluation / f"{name}.json"

    def write(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a measurement."""
        path = self.result(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(values, indent=2) + "\n")

    def read(self, name: str) -> dict[str, Any]:
        """Return a measurement that was written."""
        return json.loads(self.result(name).read_text(encoding="utf-8"))


_CLOCKS: dict[str, Callable[[], float]] = {
    "seconds": time.monotonic,
    "cpu_seconds": time.process_time,  # what it would take on a free core
}
Work = Callable[[Context], bool]
"""Does what is missing; returns whether everything is done, else it is called again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A piece of the run, at most an hour at a time.

    Example: ``Stage(name="conditions", work=_make_conditions)``.
    """

    name: str
    work: Work
    needs: tuple[str, ...] = ()
    is_measurement: bool = False
    """Whether it reads finished models alone, so that it can be done again to compare."""

    def marker(self, config: ReproduceConfig) -> Path:
        """Return the file that says it is done."""
        return config.folder / "stages" / f"{self.name}.json"

    def is_done(self, config: ReproduceConfig) -> bool:
        """Whether it is."""
        return self.marker(config).is_file()

    def run(self, context: Context) -> bool:
        """Go on with it; return whether it is done now."""
        path = self.marker(context.config)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        spent = (
            json.loads(unfinished.read_text())
            if unfinished.exists()
            else dict.fromkeys(_CLOCKS, 0.0)
        )
        start = {name: clock() for name, clock in _CLOCKS.items()}
        try:
            is_done = self.work(context)
        finally:
            spent = {n: spent[n] + clock() - start[n] for n, clock in _CLOCKS.items()}
            write_text(unfinished, json.dumps(spent))
        if is_done:
            rounded = {name: round(seconds, 1) for name, seconds in spent.items()}
            write_text(path, json.dumps({**rounded, "commit": commit()}) + "\n")
            unfinished.unlink()
        return is_done


def ready(stages: Sequence[Stage], config: ReproduceConfig) -> list[Stage]:
    """Return the stages that are not done and whose needs are, in order."""
    finished = {stage.name for stage in stages if stage.is_done(config)}
    return [s for s in stages if s.name not in finished and set(s.needs) <= finished]


def records(stages: Sequence[Stage], config: ReproduceConfig) -> dict[str, dict[str, Any]]:
    """Return the contents of the finished stages' files, by stage."""
    return {
        stage.name: json.loads(stage.marker(config).read_text())
        for stage in stages
        if stage.is_done(config)
    }


@cache
def commit() -> str:
    """Return the commit of this checkout, marked if files differ from it; empty without git.

    Asked once, when a run begins: its code is loaded then, whatever is committed meanwhile.
    """

    def git(*words: str) -> str:
        process = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return process.stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        is_changed = bool(head and git("status", "--porcelain"))
        return head + (" and uncommitted changes" if is_changed else "")
    except FileNotFoundError:
        return ""
