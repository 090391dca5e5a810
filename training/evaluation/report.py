"""What a benchmark has come to: a line per edit in, tables and a contact sheet out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from ...fill.task import Dimension, Task
from ...reward.report import wilson_interval
from ..charts.contact_sheets import contact_sheet
from ..charts.plots import stack
from ..charts.tables import render_table
from ..data.conditions import save_image
from ..runs.files import write_text
from .config import ALL, EvalConfig
from .votes import BAD, GOOD, SAME, Votes, count_votes, vote

MAX_SHOWN = 16
"""Edits on the contact sheet: the first ones, whatever became of them."""
FORMAT = 1
Cells = list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One edit. Keys of the dictionaries are ``model`` and, where there is one, ``baseline``."""

    key: str
    """Condition and seed."""
    condition: str
    task: str
    images: dict[str, str]
    """The judged image's file."""
    measures: dict[str, dict[str, float | None]]
    """What needs no judge, by name."""
    usable: dict[str, bool] = field(default_factory=dict)
    """What the toy world's oracle says; empty elsewhere."""
    beside_source: dict[str, dict[str, float]] = field(default_factory=dict)
    """P(better than the image before the edit) by dimension; empty without a judge."""
    beside_baseline: dict[str, float] = field(default_factory=dict)
    """P(the model's is better than the baseline's) by dimension."""

    def is_sound(self, side: str, config: EvalConfig) -> bool:
        """Whether no measure says that something is wrong."""
        found = self.measures[side]
        limits = {"seam": config.max_seam}
        if self.task in (Task.EXTEND.value, Task.REMOVE.value):
            limits["tone"] = config.max_tone
        values = {name: found.get(name) for name in limits}
        is_clean = all(v is None or v <= limits[name] for name, v in values.items())
        return is_clean and found.get("text", 1.0) == 1.0

    def is_accepted(self, side: str) -> bool | None:
        """Whether the judge prefers it to no edit at all; None if it was not asked."""
        chances = self.beside_source.get(side)
        return fmean(chances.values()) > 0.5 if chances else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All edits."""

    config: EvalConfig
    rows: tuple[Row, ...]

    @property
    def sides(self) -> list[str]:
        """``model``, and ``baseline`` if there is one."""
        return list(self.rows[0].images)

    def groups(self) -> dict[str, list[Row]]:
        """Return the edits by task, and all of them."""
        by_task = {t.value: [r for r in self.rows if r.task == t.value] for t in Task}
        return {name: rows for name, rows in by_task.items() if rows} | {ALL: list(self.rows)}

    def numbers(self) -> dict[str, Any]:
        """Return everything as JSON values: by group and side, and the votes."""
        return {
            "format": FORMAT,
            "config": asdict(self.config),
            "sides": {
                name: {side: self._summary(rows, side) for side in self.sides}
                for name, rows in self.groups().items()
            },
            "votes": {name: self._votes(rows) for name, rows in self.groups().items()},
            "chances": {name: self._chances(rows) for name, rows in self.groups().items()},
        }

    def quality_cells(self) -> Cells:
        """Return a table: a row per task and side."""
        found = self.numbers()["sides"]
        columns = ["usable", "accepted", "sound", "seam", "tone", "texture", "text"]
        columns = [c for c in columns if any(c in s for g in found.values() for s in g.values())]
        rows = [
            [name, side, str(summary["edits"]), *(_shown(summary.get(c)) for c in columns)]
            for name, by_side in found.items()
            for side, summary in by_side.items()
        ]
        return [["task", "side", "edits", *columns], *rows]

    def vote_cells(self) -> Cells:
        """Return good, same and bad by task and voter; only a head if nobody votes."""
        head = ["task", "by", GOOD, SAME, BAD, "good of decided, 95 %", "p"]
        rows = [
            [name, voter, str(v[GOOD]), str(v[SAME]), str(v[BAD]), _range(v), _p(v["p"])]
            for name, voters in self.numbers()["votes"].items()
            for voter, v in voters.items()
        ]
        return [head, *rows]

    def chance_cells(self) -> Cells:
        """Return the judge's mean P(better) by task and dimension; only a head without a judge."""
        found = self.numbers()["chances"]
        asked = {d for pairs in found.values() for means in pairs.values() for d in means}
        dimensions = [d.value for d in Dimension if d.value in asked]
        rows = [
            [name, pair, *(f"{means[d]:.3f}" if d in means else "-" for d in dimensions)]
            for name, pairs in found.items()
            for pair, means in pairs.items()
        ]
        return [["task", "P(better)", *(d.replace("_", " ") for d in dimensions)], *rows]

    def tables(self) -> dict[str, Cells]:
        """Return the tables that say something, each with the line above it in the text."""
        made = {
            _HEAD.format(count=len(self.rows), **asdict(self.config)): self.quality_cells(),
            "The model beside its baseline, the same conditions and seeds:": self.vote_cells(),
            "What the judge says, by dimension (one half: neither is better):": self.chance_cells(),
        }
        return {note: cells for note, cells in made.items() if len(cells) > 1}

    def text(self) -> str:
        """Return the report in Markdown."""
        parts = [f"{note}\n\n{markdown(cells)}" for note, cells in self.tables().items()]
        return "\n\n".join(parts) + "\n"

    def _summary(self, rows: Sequence[Row], side: str) -> dict[str, Any]:
        told: dict[str, Any] = {"edits": len(rows)}
        shares = {
            "usable": [row.usable[side] for row in rows if row.usable],
            "accepted": [yes for row in rows if (yes := row.is_accepted(side)) is not None],
            "sound": [row.is_sound(side, self.config) for row in rows],
        }
        for name, values in shares.items():
            if values:
                share = fmean(values)
                low, high = wilson_interval(share, len(values))
                told[name] = {"share": share, "low": low, "high": high, "count": len(values)}
        for name in ("seam", "tone", "texture", "text"):
            found = [v for row in rows if (v := row.measures[side].get(name)) is not None]
            if found:
                told[name] = fmean(found)
        return told

    def _chances(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """Return the mean P(better) by dimension, of each side beside the source, and of both."""
        asked = {
            f"{side} beside source": [row.beside_source.get(side, {}) for row in rows]
            for side in self.sides
        }
        asked["model beside baseline"] = [row.beside_baseline for row in rows]
        made: dict[str, dict[str, float]] = {}
        for pair, chances in asked.items():
            values: dict[str, list[float]] = defaultdict(list)
            for dimension, chance in (item for one in chances for item in one.items()):
                values[dimension].append(chance)
            if values:
                made[pair] = {dimension: fmean(found) for dimension, found in values.items()}
        return made

    def _votes(self, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
        if len(self.sides) < 2:
            return {}
        model, baseline = self.sides
        oracle = [
            float(r.usable[model]) / 2 - float(r.usable[baseline]) / 2 for r in rows if r.usable
        ]
        judged = [fmean(row.beside_baseline.values()) for row in rows if row.beside_baseline]
        made = {
            "judge": count_votes([vote(p, self.config.margin) for p in judged]),
            "oracle": count_votes([vote(0.5 + gap, 0.0) for gap in oracle]),
        }
        return {name: votes_record(v) for name, v in made.items() if v.good + v.same + v.bad}


def votes_record(votes: Votes) -> dict[str, Any]:
    """Return votes with their interval and p as JSON values."""
    return asdict(votes) | {"interval": votes.interval, "p": votes.p}


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is its head."""
    head, *rows = cells
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def report_image(report: Report, shown: Sequence[Sequence[Tensor]]) -> Tensor:
    """Draw the tables above the images, ``[1, H, W, 3]``, 0..1."""
    per_row = len(report.sides) + 1
    columns = per_row * (2 if len(shown) > 1 else 1)
    sheet = contact_sheet([image for row in shown for image in row], columns)[0]
    return stack([*(render_table(cells) for cells in report.tables().values()), sheet])


def save_report(folder: Path, report: Report, shown: Sequence[Sequence[Tensor]]) -> None:
    """Write report.json, report.md and sheet.png."""
    write_text(folder / "report.json", json.dumps(report.numbers(), indent=2) + "\n")
    write_text(folder / "report.md", report.text())
    save_image(folder / "sheet.png", report_image(report, shown)[0])


_HEAD = """# Benchmark

{count} edits, conditions of the {split} split, seed {seed}, best of {best_of} for the model.

*usable*: the toy world's oracle accepts the image. *accepted*: the judge prefers it to the
image before the edit, in what the edit is for. *sound*: no measure says that something is wrong
(seam at most {max_seam}; extend and remove: tone at most {max_tone}; words read right, if read).
Shares in % with 95 % intervals (Wilson). *seam*: step across the mask's border. *tone*: difference
of the colours on its two sides. *texture*: how much busier or emptier the inside is, in powers of
two. *words*: share of the words read right."""


def _shown(value: Mapping[str, float] | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return f"{100 * value['share']:.1f} ({100 * value['low']:.0f}-{100 * value['high']:.0f})"
    return f"{value:.3f}"


def _range(votes: Mapping[str, Any]) -> str:
    found = votes["interval"]
    return f"{found[0]:.2f}-{found[1]:.2f}" if found else "-"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
