"""``onereward evaluate config.json``: what OneReward Evaluate does, without ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .headless import run_headless

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = subparsers.add_parser(
        "evaluate", help="evaluate a model on an edit data set, alone or beside a baseline"
    )
    parser.add_argument("config", type=Path, help="config.json in the folder of an evaluation")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing; write the files of the evaluation and its tables."""
    from ..training.jobs import EvaluateJob

    job = EvaluateJob.load(arguments.config)
    return run_headless(job.threads, job.evaluation_folder, lambda host, _: job.run(host).text())
