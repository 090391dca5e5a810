"""``onereward generate generate.json``: what OneReward Generate Candidates does, without ComfyUI.

``accelerate launch -m onereward generate generate.json`` shares the conditions among processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .headless import run_headless

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = subparsers.add_parser("generate", help="make candidates of conditions, or go on")
    parser.add_argument("config", type=Path, help="generate.json in the folder of the data")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing; write the folder of the data."""
    from ..training.jobs import GenerateJob

    job = GenerateJob.load(arguments.config)
    return run_headless(
        job.threads,
        job.preferences_folder,
        lambda host, processes: str(job.run(host, processes).folder),
    )
