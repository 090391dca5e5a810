"""Fixtures of the tests in the real front end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.browser import Browser, find_chromium
from support.server import EXAMPLE, ComfyServer
from support.workflows import example_image


@pytest.fixture(scope="package")
def browser(comfyui: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that shows the front end of the running server."""
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    example_image().save(comfyui.base_directory / "input" / EXAMPLE)
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.open_front_end(comfyui.url)
        yield opened
