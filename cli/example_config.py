"""``onereward example-config COMMAND``: a config to start from, with every setting's default.

It is of the bundled model, judge and examples, so it runs as it is; put your own folders in. What
the job makes goes into ``onereward-work`` beside the file.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .command_help import add_command
from .version import PACKAGE_ROOT

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ..fill.json_config import JsonConfig

EXAMPLES = PACKAGE_ROOT / "assets" / "examples"
WORK = "onereward-work"
COMMANDS = ("generate", "label", "train-judge", "report", "calibrate", "train", "evaluate")


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = add_command(
        subparsers,
        "example-config",
        "write a config to start from, with every setting's default",
        "example-config train",
        "example-config evaluate my-evaluation.json",
    )
    parser.add_argument("command", choices=COMMANDS, help="what the config is for")
    parser.add_argument(
        "file", type=Path, nargs="?", help="new file; COMMAND.json in this folder if absent"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file and its name; ValueError if there is one already."""
    from ..fill.io.files import write_text

    path: Path = arguments.file or Path(f"{arguments.command}.json")
    if path.exists():
        raise ValueError(f"{path} is there already; choose another file")
    config = make_example(arguments.command, path.resolve().parent / WORK)
    write_text(path, config.to_json() + "\n")
    sys.stdout.write(f"{path}\n")
    sys.stderr.write(
        f"it is of the bundled model and examples; put your own in, then: "
        f"onereward {arguments.command} {path}\n"
    )
    return 0


def make_example(command: str, work: Path) -> JsonConfig:
    """Return the example for a command; what the job makes goes into `work`."""
    from ..fill.config import ModelConfig
    from ..reward.judge import JudgeConfig
    from ..training.jobs import EvaluateJob, GenerateJob, LabelJob, ReportJob
    from ..training.judge.calibrate import CalibrateConfig, CalibrateJob
    from ..training.judge.config import JudgeTrainConfig
    from ..training.policy.config import PolicyTrainConfig

    # What comes with the package, so that every example runs as it is.
    model = asdict(ModelConfig(folder=str(PACKAGE_ROOT / "assets" / "fill")))
    judge = asdict(JudgeConfig())
    dataset, pairs = str(EXAMPLES / "toy-train"), str(EXAMPLES / "toy-preferences")
    preferences = str(work / "preferences")  # `generate` makes them, `label` goes on
    threads = os.cpu_count() or 1
    # One job for each command; what is not named has its default.
    examples: dict[str, JsonConfig] = {
        "generate": GenerateJob(
            model=model, dataset_folder=dataset, preferences_folder=preferences, threads=threads
        ),
        "label": LabelJob(preferences_folder=preferences, judge=judge, threads=threads),
        "train-judge": JudgeTrainConfig(
            run_folder=str(work / "judge"), preferences_folder=pairs, threads=threads
        ),
        "report": ReportJob(
            preferences_folder=pairs,
            report_folder=str(work / "judge-report"),
            judge=judge,
            threads=threads,
        ),
        "calibrate": CalibrateJob(
            preferences_folder=pairs,
            report_folder=str(work / "judge-calibration"),
            judge=judge,
            settings=CalibrateConfig(split="test_and_dev"),  # of the few pairs of the example
            threads=threads,
        ),
        "train": PolicyTrainConfig(
            run_folder=str(work / "policy"),
            model=model,
            dataset_folder=dataset,
            judges=(judge,),
            threads=threads,
        ),
        "evaluate": EvaluateJob(
            model={"model": model, "adapters": (), "strengths": ()},
            dataset_folder=str(EXAMPLES / "toy-test"),
            evaluation_folder=str(work / "evaluation"),
            judge=judge,
            threads=threads,
        ),
    }
    return examples[command]
