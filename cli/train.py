"""``onereward train config.json``: the run that the training node would do, without ComfyUI.

``accelerate launch -m onereward train config.json`` shares it among processes.
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
    parser = subparsers.add_parser("train", help="train a policy by a judge, or go on with it")
    parser.add_argument("config", type=Path, help="config.json as the training node writes it")
    parser.add_argument("--check", action="store_true", help="check and forecast, train nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train; return 0, or 130 if the user stopped it."""
    from ..training.policy.config import PolicyTrainConfig
    from ..training.policy.run import check, load, train_policy

    config = PolicyTrainConfig.load(arguments.config)
    if arguments.check:
        return run_headless(
            config.threads,
            config.run_folder,
            lambda host, _: check(config, host, load(config, host.device)).text(),
        )
    return run_headless(
        config.threads,
        config.run_folder,
        lambda host, processes: str(train_policy(config, host, processes=processes).path),
    )
