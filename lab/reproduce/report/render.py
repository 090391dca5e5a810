"""Writes the report: its images, ``numbers.json``, and the text of ``report.md.in``.

``numbers.json``, shortened::

    {"plan": {"config": {"seed": 0}, "policy": {"steps": 120}, "alpha": 0.05},
     "run": {"commits": {"53cd7554a9fa": 67}, "stages": 67, "core_hours": 3.33},
     "budget": {"models": {"fixed": {"steps": [120], "edits": 1920, "core_minutes": 4.6}}},
     "rewards": {"fill.structure": {"fixed": {"first": 0.5, "last": 0.6}}},
     "measured": {"usability": {"base": {"all": {"share": 0.848, "interval": [0.821, 0.871]}}}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jinja2

from ....fill.io.files import write_text
from ....training.charts.tables import markdown_table
from ..figures import plot_figures
from ..stage import Context, Stage, records
from . import report_tables
from .numbers import Numbers, measured_numbers
from .training_numbers import budget_numbers, plan_numbers, reward_numbers, run_numbers

TEMPLATE = Path(__file__).with_name("report.md.in")
NUMBERS_NAME = "numbers.json"
EMPTY_TABLE = "There is nothing to show here."
_BLANK_LINES = re.compile(r"\n{3,}")


def write_report(context: Context, stages: Sequence[Stage]) -> Path:
    """Draw the images, write the numbers and the report; return the report's file."""
    path = Path(context.config.report)
    images = plot_figures(context, path.parent)
    numbers = report_numbers(context, stages)
    write_text(path.with_name(NUMBERS_NAME), json.dumps(numbers, indent=2) + "\n")
    write_text(path, render(numbers, images))
    return path


def report_numbers(context: Context, stages: Sequence[Stage]) -> Numbers:
    """Return everything that the report needs, as JSON values."""
    finished = records(stages, context.config)
    numbers = {
        "plan": plan_numbers(context),
        "run": run_numbers(context.config, finished),
        "budget": budget_numbers(context, finished),
        "rewards": reward_numbers(context),
        "measured": measured_numbers(context),
    }
    return json.loads(json.dumps(numbers))


def render(numbers: Numbers, images: Mapping[str, str]) -> str:
    """Return the report in Markdown.

    Args:
        numbers: What :func:`report_numbers` returns, or ``numbers.json``.
        images: File by name, relative to the report; images without a file are left out.
    """
    # What the template may call, besides the numbers.
    tables = report_tables.report_tables(numbers)

    def table(name: str) -> str:
        return markdown_table(tables[name]) if len(tables[name]) > 1 else EMPTY_TABLE

    def image(name: str) -> str:
        return f"![{name.replace('-', ' ')}]({images[name]})" if name in images else ""

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "g": lambda value: f"{value:g}",
        "plain": report_tables.plain,
        "decimal": report_tables.decimal,
    }
    environment.globals |= {
        "label": partial(report_tables.label, numbers),
        "percent": report_tables.percent,
        "interval": report_tables.interval,
        "points": report_tables.points,
        "p_value": report_tables.p_value,
        "monitors": report_tables.monitors,
        "table": table,
        "image": image,
    }
    # Images that are missing leave blank lines.
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return _BLANK_LINES.sub("\n\n", template.render(numbers)).strip() + "\n"
