"""``onereward train config.json``: the run that the training node would do, without ComfyUI.

``accelerate launch -m onereward train config.json`` shares it among processes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
    import torch

    from ..training.host import Stopped, TrainingHost, stopped_by_signals
    from ..training.policy.config import PolicyTrainConfig
    from ..training.policy.run import train_policy
    from ..training.processes import Processes

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config, processes = PolicyTrainConfig.load(arguments.config), Processes()
    torch.set_num_threads(config.threads)
    host = TrainingHost(processes.device)
    try:
        with stopped_by_signals(host.stop):
            result = train_policy(config, host, processes=processes)
    except Stopped:
        sys.stderr.write(f"onereward: stopped; the same command goes on in {config.run_folder}\n")
        return 130
    sys.stdout.write(f"{result.path}\n")
    return 0
