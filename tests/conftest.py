"""Loads the repository as the package ``onereward``, the way ComfyUI loads a pack."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import machine
from support.sharing import SharedServerScheduling, by_urgency

if TYPE_CHECKING:  # what they import is needed for servers only
    from xdist.remote import Producer

    from support.client import ComfyClient
    from support.server import ComfyServer

ROOT = Path(__file__).resolve().parent.parent
MARKED_FOLDERS = ("comfyui", "browser", "lab")
"""Folders of ``tests/`` whose tests all have the marker of that name."""

if not machine.has_gpu():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The models are tiny, and tests share the cores with the server and the browser.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _load_package() -> None:
    spec = importlib.util.spec_from_file_location(
        "onereward", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["onereward"] = module
    spec.loader.exec_module(module)


_load_package()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)
    if hasattr(config, "workerinput"):  # in a worker of pytest-xdist
        items.sort(key=by_urgency(items))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedServerScheduling:
    """Share the tests out so that every server runs once."""
    config.option.loadscopereorder = False  # the order is that of `by_urgency`
    return SharedServerScheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not machine.has_gpu():
        pytest.skip("needs a GPU")


@pytest.fixture
def client(comfyui: ComfyServer) -> ComfyClient:
    """A client of the running server, with its own client id."""
    from support.client import ComfyClient

    return ComfyClient(comfyui.url)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the server logged when a test that used it fails."""
    report = yield
    server = getattr(item, "funcargs", {}).get("comfyui")
    if report.failed and server is not None:
        report.sections.append(("ComfyUI log, last lines", server.log_tail()))
    return report
