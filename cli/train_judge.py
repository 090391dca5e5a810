"""``onereward train-judge config.json``: the run of OneReward Train Judge, without ComfyUI.

``accelerate launch -m onereward train-judge config.json`` shares it among processes.
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
    parser = subparsers.add_parser("train-judge", help="train a judge on pairs, or go on with it")
    parser.add_argument("config", type=Path, help="config.json in the folder of a run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train; write the folder of the adapter or judge."""
    from ..training.judge.config import JudgeTrainConfig
    from ..training.judge.train import train_judge

    config = JudgeTrainConfig.load(arguments.config)
    return run_headless(
        config.threads,
        config.run_folder,
        lambda host, processes: str(train_judge(config, host, processes)),
    )
