"""Fixtures of the tests that run in a real server."""

from __future__ import annotations

import pytest

from support.server import EXAMPLE, ComfyServer
from support.workflows import example_picture


@pytest.fixture
def example(comfyui: ComfyServer) -> str:
    """Put a picture with a mask where the templates expect theirs; return its name."""
    example_picture().save(comfyui.base_directory / "input" / EXAMPLE)
    return EXAMPLE
