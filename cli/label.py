"""``onereward label label.json``: what OneReward Label Preferences does, without ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .headless import run_headless

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = subparsers.add_parser("label", help="find the best and the worst of the candidates")
    parser.add_argument("config", type=Path, help="label.json in the folder of the data")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Label what is not labelled; write how much was kept."""
    from ..training.jobs import LabelJob

    job = LabelJob.load(arguments.config)
    return run_headless(
        job.threads, job.preferences_folder, lambda host, processes: job.run(host, processes).text()
    )
