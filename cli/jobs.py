"""The jobs of the training nodes, without ComfyUI: ``onereward COMMAND config.json``.

Each takes the file that its node writes into the job's folder, or one that ``example-config``
makes, and goes on where it was stopped.
``accelerate launch -m onereward train config.json`` shares a job among processes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .command_help import add_command
from .headless import run_headless
from .label_page import serve_label_page

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ..training.runs.distributed import Distributed
    from ..training.runs.hosts import TrainingHost


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands to the command line."""
    for name, (run, help, config) in _COMMANDS.items():
        examples = [f"example-config {name}", f"{name} {name}.json"]
        if run is train:
            examples.append(f"{name} {name}.json --check")
        if run is label:
            examples.append(f"{name} --open output/onereward/preferences/my-data")
        parser = add_command(subparsers, name, help, *examples)
        parser.add_argument("config", type=Path, help=config, nargs="?" if run is label else None)
        if run is label:
            parser.add_argument(
                "--open", type=Path, metavar="FOLDER", help="label by hand, in a browser"
            )
        if run is train:
            parser.add_argument("--check", action="store_true", help="forecast, train nothing")
        parser.set_defaults(run=run)


def generate(arguments: argparse.Namespace) -> int:
    """Make the candidates that are missing; write the folder of the data."""
    from ..training.jobs import GenerateJob

    job = GenerateJob.load(arguments.config)
    return run_headless(
        job.threads,
        job.preferences_folder,
        lambda host, processes: str(job.run(host, processes).folder),
    )


def label(arguments: argparse.Namespace) -> int:
    """Label what is not labelled; write how many pairs that gave. Or let a person do it."""
    if (arguments.config is None) == (arguments.open is None):
        raise ValueError("give either the file of a job or --open with a folder of candidates")
    if arguments.open:
        return serve_label_page(arguments.open)
    from ..training.jobs import LabelJob

    job = LabelJob.load(arguments.config)
    return run_headless(
        job.threads, job.preferences_folder, lambda host, processes: job.run(host, processes).text()
    )


def train_judge(arguments: argparse.Namespace) -> int:
    """Train; write the folder of the adapter or judge."""
    from ..training.judge.config import JudgeTrainConfig
    from ..training.judge.train import train_judge

    config = JudgeTrainConfig.load(arguments.config)
    return run_headless(
        config.threads,
        config.run_folder,
        lambda host, processes: str(train_judge(config, host, processes)),
    )


def report(arguments: argparse.Namespace) -> int:
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


def calibrate(arguments: argparse.Namespace) -> int:
    """Calibrate the judge; write the losses before and after."""
    from ..training.judge.calibrate import CalibrateJob

    job = CalibrateJob.load(arguments.config)
    return run_headless(
        job.threads, job.report_folder, lambda host, processes: job.run(host, processes).text
    )


def train(arguments: argparse.Namespace) -> int:
    """Train a policy, or with ``--check`` only check and forecast."""
    from ..training.policy.config import PolicyTrainConfig
    from ..training.policy.run import check, load, train_policy

    config = PolicyTrainConfig.load(arguments.config)

    def run(host: TrainingHost, processes: Distributed) -> str:
        if arguments.check:
            return check(config, host, load(config, host.device, host.check_cancelled)).text()
        return str(train_policy(config, host, processes=processes).path)

    return run_headless(config.threads, config.run_folder, run)


def evaluate(arguments: argparse.Namespace) -> int:
    """Make what is missing; write the files of the evaluation and its tables."""
    from ..training.jobs import EvaluateJob

    job = EvaluateJob.load(arguments.config)
    return run_headless(job.threads, job.evaluation_folder, lambda host, _: job.run(host).text())


_COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str, str]] = {
    "generate": (generate, "make candidates", "generate.json in the folder of the data"),
    "label": (label, "find the best and worst candidates", "label.json in the folder of the data"),
    "train-judge": (train_judge, "train a judge on pairs", "config.json in the folder of a run"),
    "report": (report, "measure a judge on held-out pairs", "config.json in a report's folder"),
    "calibrate": (
        *(calibrate, "calibrate a judge on held-out pairs"),
        "calibrate.json in a report's folder",
    ),
    "train": (train, "train a policy by a judge", "config.json in the folder of a run"),
    "evaluate": (
        *(evaluate, "evaluate a model, alone or beside a baseline"),
        "config.json in the folder of an evaluation",
    ),
}
"""Name to what runs it, its help, and that of its config."""
