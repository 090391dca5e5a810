"""OneReward for ComfyUI: fill, extend, remove and text edits with one FLUX.1 Fill model."""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` would be most of this file's import time
if TYPE_CHECKING:
    from .nodes import OneRewardExtension

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> OneRewardExtension:
    """Return the extension; ComfyUI calls this once at start-up."""
    from .nodes import OneRewardExtension

    return OneRewardExtension()
