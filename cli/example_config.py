"""``onereward example-config COMMAND``: a config to start from, with every setting's default.

It is of the bundled model, judge and examples, so it runs as it is; put your own folders in. What
the job makes goes into ``onereward-work`` beside the file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command_help import add_command
from .version import PACKAGE_ROOT

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from ..fill.json_config import JsonConfig

EXAMPLES = PACKAGE_ROOT / "assets" / "examples"
WORK = "onereward-work"
PREFERENCES = "preferences"


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = add_command(
        subparsers,
        "example-config",
        "write a config to start from, with every setting's default",
        "example-config train",
        "example-config evaluate my-evaluation.json",
    )
    parser.add_argument("command", choices=_CONFIGS, help="what the config is for")
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
    config = _CONFIGS[arguments.command](path.resolve().parent / WORK)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, config.to_json() + "\n")
    sys.stdout.write(f"{path}\n")
    sys.stderr.write(
        f"it is of the bundled model and examples; put your own in, then: "
        f"onereward {arguments.command} {path}\n"
    )
    return 0


def _generate(work: Path) -> JsonConfig:
    from ..training.jobs import GenerateJob

    return GenerateJob(
        model=_model(),
        dataset_folder=str(EXAMPLES / "toy-train"),
        preferences_folder=str(work / PREFERENCES),
        threads=_threads(),
    )


def _label(work: Path) -> JsonConfig:
    """Label what the example of ``generate`` makes."""
    from ..training.jobs import LabelJob

    return LabelJob(preferences_folder=str(work / PREFERENCES), judge=_judge(), threads=_threads())


def _train_judge(work: Path) -> JsonConfig:
    from ..training.judge.config import JudgeTrainConfig

    return JudgeTrainConfig(
        run_folder=str(work / "judge"),
        preferences_folder=str(EXAMPLES / "toy-preferences"),
        threads=_threads(),
    )


def _report(work: Path) -> JsonConfig:
    from ..training.jobs import ReportJob

    return ReportJob(
        preferences_folder=str(EXAMPLES / "toy-preferences"),
        report_folder=str(work / "judge-report"),
        judge=_judge(),
        threads=_threads(),
    )


def _train(work: Path) -> JsonConfig:
    from ..training.policy.config import PolicyTrainConfig

    return PolicyTrainConfig(
        run_folder=str(work / "policy"),
        model=_model(),
        dataset_folder=str(EXAMPLES / "toy-train"),
        judges=(_judge(),),
        threads=_threads(),
    )


def _evaluate(work: Path) -> JsonConfig:
    from ..training.jobs import EvaluateJob

    return EvaluateJob(
        model={"model": _model(), "adapters": (), "strengths": ()},
        dataset_folder=str(EXAMPLES / "toy-test"),
        evaluation_folder=str(work / "evaluation"),
        judge=_judge(),
        threads=_threads(),
    )


def _model() -> dict[str, Any]:
    from ..fill.config import ModelConfig

    return asdict(ModelConfig(folder=str(PACKAGE_ROOT / "assets" / "fill")))


def _judge() -> dict[str, Any]:
    from ..reward.judge import JudgeConfig

    return asdict(JudgeConfig())


def _threads() -> int:
    return os.cpu_count() or 1


_CONFIGS: dict[str, Callable[[Path], JsonConfig]] = {
    "generate": _generate,
    "label": _label,
    "train-judge": _train_judge,
    "report": _report,
    "train": _train,
    "evaluate": _evaluate,
}
"""What makes the example for a command, given the folder for its work."""
