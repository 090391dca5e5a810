"""Commands with examples in their help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_command(
    subparsers: _SubParsersAction[argparse.ArgumentParser], name: str, help: str, *examples: str
) -> argparse.ArgumentParser:
    """Add a command whose ``--help`` ends with examples, each without the program's name.

    Example: ``add_command(subparsers, "info", "show versions", "info --json")``.
    """
    lines = [f"  onereward {example}" for example in examples]
    return subparsers.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog="\n".join(["examples:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
