"""``onereward import-pairs`` and ``export-pairs``: hand-made pairs in, data for others out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .command_help import add_command

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands to the command line."""
    parser = add_command(
        subparsers,
        "import-pairs",
        "add hand-made pairs to preference data",
        "import-pairs my-pairs.csv output/onereward/preferences/mine",
    )
    parser.add_argument(
        "list",
        type=Path,
        help=".csv or .jsonl with winner, loser, task, dimension, and source or condition",
    )
    parser.add_argument("data", type=Path, help="folder of the data; made if there is none")
    parser.set_defaults(run=run_import)
    parser = add_command(
        subparsers,
        "export-pairs",
        "write pairs as one image folder per split, for `datasets`",
        "export-pairs output/onereward/preferences/mine pairs",
    )
    parser.add_argument("data", type=Path, help="folder of preference data")
    parser.add_argument("target", type=Path, help="new folder")
    parser.add_argument("--judged-by", default="", help="only pairs of this judge, as it is noted")
    parser.set_defaults(run=run_export)


def run_import(arguments: argparse.Namespace) -> int:
    """Import; write how many pairs were new."""
    from ..reward.exchange import import_pairs

    num = import_pairs(arguments.list, arguments.data)
    sys.stdout.write(f"{num} new pairs in {arguments.data}\n")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Export; write how many pairs each split has."""
    from ..reward.exchange import export_pairs

    exported = export_pairs(arguments.data, arguments.target, arguments.judged_by)
    counts = ", ".join(f"{name} {num}" for name, num in exported.counts.items())
    sys.stdout.write(f"{arguments.target}: {counts}\n")
    for name in exported.left_out:
        sys.stdout.write(f"left out {name}: a split has none\n")
    return 0
