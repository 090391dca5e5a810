"""Puts the labelling page and its routes on ComfyUI's own server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server import PromptServer

from ...reward.preference import GROUPS
from ...training.labelling.label_routes import LabelServer
from ..paths.work_folders import work_folder

PREFERENCES = "preferences"
"""The folder below output/onereward."""


@dataclass(frozen=True, slots=True)
class PreferenceFolders:
    """The folders of preference data below output/onereward/preferences, by their plain names.

    Example: ``PreferenceFolders().find("my-data")``.
    """

    def names(self) -> list[str]:
        """Return those with candidates, sorted."""
        parent = work_folder(PREFERENCES, "x").parent
        paths = parent.iterdir() if parent.is_dir() else ()
        return sorted(path.name for path in paths if self._is_one(path))

    def find(self, name: str) -> Path:
        """Return the folder of a name; ValueError unless it is a plain one."""
        return work_folder(PREFERENCES, name)

    def _is_one(self, path: Path) -> bool:
        try:
            return (self.find(path.name) / GROUPS).is_file()
        except ValueError:  # no name that this pack gives
            return False


def add_routes() -> None:
    """Add the page, if there is a server; it takes routes until it starts to listen."""
    if server := getattr(PromptServer, "instance", None):
        LabelServer(PreferenceFolders()).add_to(server.routes)
