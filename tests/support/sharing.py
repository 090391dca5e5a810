"""How two workers of pytest-xdist share the tests: by file, those of the server together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadScopeScheduling

SERVER = "server"
"""The group of the tests that share one ComfyUI."""
WITH_SERVER = ("tests/browser", "tests/comfyui")
"""Their folders."""
WITHOUT_SERVER = ("test_archive.py", "test_commands.py", "test_extension.py")
"""Files there that use no server, or start their own."""


def group_of(node_id: str) -> str:
    """Return the name of the tests that one worker runs one after the other.

    Example: ``group_of("tests/browser/test_templates.py::test_runs[fill]") == SERVER``.
    """
    file = PurePosixPath(node_id.partition("::")[0])
    is_served = str(file.parent) in WITH_SERVER and file.name not in WITHOUT_SERVER
    return SERVER if is_served else str(file)


class SharedServerScheduling(LoadScopeScheduling):
    """Hands out groups in the order of the tests, the next one to whoever is free.

    Example: ``SharedServerScheduling(config, log)``, from ``pytest_xdist_make_scheduler``.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def by_urgency(items: list[pytest.Item]) -> Callable[[pytest.Item], int]:
    """Return a sort key: the server first, then files with slow tests, which fill the gaps.

    Args:
        items: All tests that are to be run.
    """
    slow = {group_of(item.nodeid) for item in items if item.get_closest_marker("slow")}

    def urgency(item: pytest.Item) -> int:
        group = group_of(item.nodeid)
        return 0 if group == SERVER else 1 if group in slow else 2

    return urgency
