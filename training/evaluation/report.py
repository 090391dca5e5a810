"""The report of an evaluation: a row per edit in, tables and a contact sheet out.

``report.json`` holds every number, by task (and ``all``) and side::

    {"format": 1, "config": {"split": "all", "num_conditions": 0, ...},
     "sides": {"remove": {"model": {"edits": 12, "seam": 0.012,
       "sound": {"share": 0.92, "low": 0.65, "high": 0.99, "count": 12}}}},
     "votes": {"remove": {"judge": {"good": 7, "same": 2, "bad": 3,
       "interval": [0.4, 0.89], "p": 0.34}}},
     "chances": {"remove": {"model beside source": {"removal_quality": 0.81}}}}
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from ...fill.io.files import write_text
from ...fill.task import Dimension, Task
from ...reward.report import wilson_interval
from ..charts.plots import stack
from ..charts.strips import Strip, draw_strips
from ..charts.tables import markdown_table, render_table
from ..data.conditions import save_image
from .config import ALL, MODEL, EvalConfig
from .votes import BAD, GOOD, SAME, Votes, count_votes, vote

MAX_IMAGES = 6
"""Edits on the sheet: the first ones, good or bad."""
LEAST_EDITS = 20
"""Of a cell on the sheet; a share of fewer may be chance."""
_FONT_SIZE, _WIDTH = 20, 640
FORMAT = 1
Cells = list[list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One edit. Keys of the dictionaries are ``model`` and, where there is one, ``baseline``.

    Example: ``Row(**json.loads(line)).is_sound("model", EvalConfig())``.
    """

    key: str
    """Condition and seed."""
    condition: str
    task: str
    images: dict[str, str]
    """The judged image's file."""
    measures: dict[str, dict[str, float | None]]
    """What needs no judge, by name."""
    usable: dict[str, bool] = field(default_factory=dict)
    """What the ground truth accepts; empty where there is none."""
    beside_source: dict[str, dict[str, float]] = field(default_factory=dict)
    """P(better than the image before the edit) by dimension; empty without a judge."""
    beside_baseline: dict[str, float] = field(default_factory=dict)
    """P(the model's is better than the baseline's) by dimension."""

    def is_sound(self, side: str, config: EvalConfig) -> bool:
        """Whether every measure is within its limit."""
        measures = self.measures[side]
        limits = {"seam": config.max_seam}
        if self.task in (Task.EXTEND.value, Task.REMOVE.value):
            limits["tone"] = config.max_tone
        values = {name: measures.get(name) for name in limits}
        is_clean = all(v is None or v <= limits[name] for name, v in values.items())
        return is_clean and measures.get("text", 1.0) == 1.0

    def is_accepted(self, side: str) -> bool | None:
        """Whether the judge prefers it to no edit at all; None if it was not asked."""
        chances = self.beside_source.get(side)
        return fmean(chances.values()) > 0.5 if chances else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All edits of an evaluation.

    Example: ``print(evaluate(eval_models, conditions, config, folder, host).text())``.
    """

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
        groups: dict[str, dict[str, dict[str, Any]]] = self.numbers()["sides"]
        measured = {name for sides in groups.values() for side in sides.values() for name in side}
        columns = ["usable", "accepted", "sound", "seam", "tone", "texture", "text"]
        columns = [column for column in columns if column in measured]
        rows = []
        for name, sides in groups.items():
            for side, summary in sides.items():
                values = [_format(summary.get(column)) for column in columns]
                rows.append([name, side, str(summary["edits"]), *values])
        return [["task", "side", "edits", *columns], *rows]

    def vote_cells(self) -> Cells:
        """Return good, same and bad by task and voter; only a head if nobody votes."""
        head = ["task", "by", GOOD, SAME, BAD, "win rate (95 %)", "p"]
        rows = [
            [name, voter, str(v[GOOD]), str(v[SAME]), str(v[BAD]), _win_rate(v), _format(v["p"])]
            for name, voters in self.numbers()["votes"].items()
            for voter, v in voters.items()
        ]
        return [head, *rows]

    def chance_cells(self) -> Cells:
        """Return the judge's mean P(better) by task and dimension; only a head without a judge."""
        groups: dict[str, dict[str, dict[str, float]]] = self.numbers()["chances"]
        present = {d for pairs in groups.values() for means in pairs.values() for d in means}
        dimensions = [d.value for d in Dimension if d.value in present]
        rows = []
        for name, pairs in groups.items():
            for pair, means in pairs.items():
                values = [_format(means.get(dimension)) for dimension in dimensions]
                rows.append([name, pair.replace(" beside ", " against "), *values])
        return [["task", "P(better)", *(d.replace("_", " ") for d in dimensions)], *rows]

    def tables(self) -> dict[str, Cells]:
        """Return the tables that are not empty, each with the text above it."""
        tables = {
            _HEAD.format(count=len(self.rows), **asdict(self.config)): self.quality_cells(),
            "The model against its baseline, the same conditions and seeds:": self.vote_cells(),
            "The judge's mean by dimension (one half: neither is better):": self.chance_cells(),
        }
        return {note: cells for note, cells in tables.items() if len(cells) > 1}

    def text(self) -> str:
        """Return the report in Markdown."""
        sections = [f"{note}\n\n{markdown_table(cells)}" for note, cells in self.tables().items()]
        return "\n\n".join(sections) + "\n"

    def _summary(self, rows: Sequence[Row], side: str) -> dict[str, Any]:
        """Return shares with intervals, and means of the measures, of one side."""
        summary: dict[str, Any] = {"edits": len(rows)}
        accepted = [row.is_accepted(side) for row in rows]
        shares = {
            "usable": [row.usable[side] for row in rows if row.usable],
            "accepted": [value for value in accepted if value is not None],
            "sound": [row.is_sound(side, self.config) for row in rows],
        }
        for name, values in shares.items():
            if values:
                share = fmean(values)
                low, high = wilson_interval(share, len(values))
                summary[name] = {"share": share, "low": low, "high": high, "count": len(values)}
        for name in ("seam", "tone", "texture", "text"):
            measures = [row.measures[side].get(name) for row in rows]
            numbers = [value for value in measures if value is not None]
            if numbers:
                summary[name] = fmean(numbers)
        return summary

    def _chances(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """Return the mean P(better) by dimension: each side against the source, and both."""
        comparisons = {
            f"{side} beside source": [row.beside_source.get(side, {}) for row in rows]
            for side in self.sides
        }
        comparisons["model beside baseline"] = [row.beside_baseline for row in rows]
        means: dict[str, dict[str, float]] = {}
        for pair, answers in comparisons.items():
            values: dict[str, list[float]] = defaultdict(list)
            for answer in answers:
                for dimension, chance in answer.items():
                    values[dimension].append(chance)
            if values:
                means[pair] = {dimension: fmean(chances) for dimension, chances in values.items()}
        return means

    def _votes(self, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
        """Return the votes of judge and ground truth on model and baseline, where they exist."""
        if len(self.sides) < 2:
            return {}
        model, baseline = self.sides
        usable = [(row.usable[model], row.usable[baseline]) for row in rows if row.usable]
        chances = [fmean(row.beside_baseline.values()) for row in rows if row.beside_baseline]
        by_voter = {
            "judge": [vote(chance, self.config.margin) for chance in chances],
            "oracle": [vote((1 + first - second) / 2, 0.0) for first, second in usable],
        }
        return {name: votes_record(count_votes(votes)) for name, votes in by_voter.items() if votes}


def votes_record(votes: Votes) -> dict[str, Any]:
    """Return votes with their interval and p as JSON values."""
    counts = {GOOD: votes.num_good, SAME: votes.num_same, BAD: votes.num_bad}
    return counts | {"interval": votes.interval, "p": votes.p}


def report_image(report: Report, strips: Sequence[Strip]) -> Tensor:
    """Draw shares by task, large, above the first edits, ``[1, H, W, 3]``, 0..1.

    Cells of fewer than :data:`LEAST_EDITS` edits are grey and say so; the text has every number.
    """
    numbers = report.numbers()
    names = [n for n in ("usable", "accepted", "sound") if n in numbers["sides"][ALL][MODEL]]
    has_votes = bool(numbers["votes"][ALL])
    rows = [["task", *names, *(["better than baseline"] if has_votes else [])]]
    faint: set[tuple[int, int]] = set()
    for task in report.groups():
        row = [task]
        for name in names:
            shares = {side: numbers["sides"][task][side].get(name) for side in report.sides}
            row.append(_share_cell(shares))
        if has_votes:
            row.append(_vote_cell(numbers["votes"][task]))
        faint |= {(len(rows), i) for i, cell in enumerate(row) if cell.startswith(_TOO_FEW)}
        rows.append(row)
    images = [render_table(rows, faint, _FONT_SIZE)]
    if strips:
        images.append(draw_strips(strips, ("source", *report.sides), _WIDTH))
    return stack(images)


_TOO_FEW = "too few to tell"


def _share_cell(shares: Mapping[str, Mapping[str, float] | None]) -> str:
    """Return the model's share in %, and the baseline's below it."""
    counts = [share["count"] for share in shares.values() if share]
    if not counts:
        return ""
    if min(counts) < LEAST_EDITS:
        return f"{_TOO_FEW}\n({min(counts):.0f})"
    lines = [
        f"{100 * share['share']:.0f} %" if side == MODEL else f"{side} {100 * share['share']:.0f} %"
        for side, share in shares.items()
        if share
    ]
    return "\n".join(lines)


def _vote_cell(voters: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the win rate by the first voter, and how many edits it is of."""
    for votes in voters.values():
        num_edits, decided = votes[GOOD] + votes[SAME] + votes[BAD], votes[GOOD] + votes[BAD]
        if num_edits < LEAST_EDITS:
            return f"{_TOO_FEW}\n({num_edits})"
        rate = f"{100 * votes[GOOD] / decided:.0f} %" if decided else "-"
        return f"{rate} of {decided}\n{votes[SAME]} the same"
    return ""


def save_report(folder: Path, report: Report, strips: Sequence[Strip]) -> None:
    """Write report.json, report.md and sheet.png."""
    write_text(folder / "report.json", json.dumps(report.numbers(), indent=2) + "\n")
    write_text(folder / "report.md", report.text())
    save_image(folder / "sheet.png", report_image(report, strips)[0])


_HEAD = """# Evaluation

{count} edits, conditions of the {split} split, seed {seed}, best of {best_of} for the model.

*usable*: the ground truth accepts the image. *accepted*: the judge prefers it to the image before
the edit, in what the edit is for. *sound*: every measure is within its limit (seam at most
{max_seam}; extend and remove: tone at most {max_tone}; all words right, if they are read). Shares
in % with 95 % intervals (Wilson). *seam*: step across the mask's border. *tone*: difference of the
colours on its two sides. *texture*: how much busier or emptier the inside is, in powers of two.
*text*: share of the words read right."""


def _format(value: Mapping[str, float] | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return f"{100 * value['share']:.1f} ({100 * value['low']:.0f}-{100 * value['high']:.0f})"
    return f"{value:.3f}"


def _win_rate(votes: Mapping[str, Any]) -> str:
    """Return good of decided with its interval; a dash where nothing is decided."""
    if not votes["interval"]:
        return "-"
    low, high = votes["interval"]
    return f"{votes[GOOD] / (votes[GOOD] + votes[BAD]):.2f} ({low:.2f}-{high:.2f})"
