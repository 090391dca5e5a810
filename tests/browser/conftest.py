"""Fixtures of the tests in the real front end.

``FRONT_END_PATH`` names the folder of another front end than the one in ComfyUI's environment.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import front_end
from support.browser import Browser, find_chromium
from support.server import ComfyServer


@pytest.fixture(scope="package")
def browser(comfyui: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that shows the front end of the running server."""
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.open_front_end(comfyui.url)
        yield opened


@pytest.fixture
def renderer(request: pytest.FixtureRequest, browser: Browser) -> str:
    """One of the front end's renderers, which now draws the nodes (see `EVERY_RENDERER`)."""
    front_end.use_renderer(browser, request.param)
    return request.param
