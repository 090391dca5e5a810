"""The command line: ``onereward ...`` or ``python -m onereward ...``; by topic."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import benchmark_judge, edit, example_config, info, jobs, pairs, workflows
from .headless import STOPPED
from .version import package_version

COMMANDS = (edit, jobs, example_config, pairs, benchmark_judge, info, workflows)
"""Each has ``add_to(subparsers)``, which sets ``run``: parsed arguments to exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; those of the process if None.

    Returns:
        The exit code: 0; 1 if the command failed for a reason it has written to stderr; 130 if
        the user stopped it.
    """
    parsed = make_parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (ValueError, OSError) as error:
        from ..fill.io.json_text import shorten

        sys.stderr.write(f"onereward: {shorten(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("onereward: stopped\n")
        return STOPPED


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="onereward", description="OneReward for FLUX.1 Fill, outside ComfyUI."
    )
    parser.add_argument("--version", action="version", version=package_version())
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(subparsers)
    return parser
