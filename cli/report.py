"""``onereward report config.json``: what OneReward Judge Report does, without ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .headless import run_headless

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = subparsers.add_parser("report", help="measure a judge on held-out pairs")
    parser.add_argument("config", type=Path, help="config.json in the folder of a report")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask the judge; write the files of the report and its table."""
    from ..reward.report import report_cells
    from ..training.charts.tables import markdown_table
    from ..training.jobs import ReportJob

    job = ReportJob.load(arguments.config)
    return run_headless(
        job.threads,
        job.report_folder,
        lambda host, processes: markdown_table(report_cells(job.run(host, processes))),
    )
