"""``onereward workflows``: where the bundled workflows lie, for headless jobs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .command_help import add_command
from .version import PACKAGE_ROOT

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_to(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = add_command(
        subparsers, "workflows", "list the bundled workflows", "workflows", "workflows --ui"
    )
    parser.add_argument("--ui", action="store_true", help="the front end's format, not the API's")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the path of every workflow, one per line."""
    folder = PACKAGE_ROOT / "workflows"
    for path in sorted((folder if arguments.ui else folder / "api").glob("*.json")):
        if path.name != "index.json":
            sys.stdout.write(f"{path}\n")
    return 0
