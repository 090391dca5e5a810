"""Loads the repository as the package ``onereward``, the way ComfyUI loads a pack."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import machine
from support.sharing import SERVER, SharedServerScheduling, by_urgency, group_of

if TYPE_CHECKING:  # what they import is needed for servers only
    from xdist.remote import Producer

    from support.client import ComfyClient
    from support.server import ComfyServer

ROOT = Path(__file__).resolve().parent.parent
RUNNING_SERVER: pytest.StashKey[ComfyServer] = pytest.StashKey()
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
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)
    items.sort(key=by_urgency(items))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedServerScheduling:
    """Share the tests out so that the server runs once."""
    config.option.loadscopereorder = False  # the order is that of `by_urgency`
    return SharedServerScheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not machine.has_gpu():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def comfyui(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """One real headless ComfyUI with this plugin, until the last test that needs it.

    Beside the plugin are the test pack's nodes, which make faulty input; in the folders are files
    for the templates of real models.
    """
    from support.server import TEST_PACK, ComfyServer
    from support.template_files import write_template_files

    base = tmp_path_factory.mktemp("comfyui")
    write_template_files(base)
    with ComfyServer(base, other_packs=(TEST_PACK,)) as server:
        pytestconfig.stash[RUNNING_SERVER] = server
        yield server


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the server after the last test of its group: what follows needs the memory."""
    is_last = nextitem is None or group_of(nextitem.nodeid) != SERVER
    server = item.config.stash.get(RUNNING_SERVER, None)
    if server is not None and is_last and group_of(item.nodeid) == SERVER:
        server.stop()


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
