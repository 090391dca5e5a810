"""The labelling page over HTTP, the same for ComfyUI's server and for ``onereward label --open``.

``onereward/labelling/`` is the page; below it ``api/folders``, ``api/view``, ``api/answer`` and
``api/undo`` give and take JSON, and ``api/image`` gives one image by folder, group and index. What
goes wrong is ``{"error": sentence}``. Only pages of the same server may ask.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...fill.io.json_text import quote, shorten
from ...reward.preference import GROUPS
from ..web_page import Values, WebPage, text_of
from .label_session import LabelSession

if TYPE_CHECKING:
    from aiohttp import web

PATH = "/onereward/labelling"


class FolderNames(Protocol):
    """Which folders may be labelled. Example: ``OneFolder(Path("mine")).find("mine")``."""

    def names(self) -> list[str]:
        """Return the names of all."""
        ...

    def find(self, name: str) -> Path:
        """Return the folder of a name; ValueError or FileNotFoundError if it is none of them."""
        ...


@dataclass(frozen=True, slots=True)
class OneFolder:
    """A single folder. Example: ``OneFolder(Path("output/mine")).names() == ["mine"]``."""

    folder: Path

    def names(self) -> list[str]:
        """Return its name."""
        return [self.folder.name]

    def find(self, name: str) -> Path:
        """Return it, if that is its name."""
        if name != self.folder.name:
            raise FileNotFoundError(f"there is no folder {quote(name)}; reload the page")
        return self.folder


@dataclass(slots=True)
class LabelServer:
    """Answers the page's requests. Example: ``LabelServer(folders).add_to(routes)``."""

    folders: FolderNames
    is_local_only: bool = False
    """Whether to refuse other names of this computer than those of its loopback."""
    _sessions: dict[Path, LabelSession] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_to(self, routes: web.RouteTableDef) -> None:
        """Add the page and what it asks for to a server's routes."""
        page = WebPage(
            path=PATH,
            folder="labelling",
            gets={"folders": self._folders, "view": self._view, "image": self._image},
            posts={"answer": self._answer, "undo": self._undo},
            is_local_only=self.is_local_only,
        )
        page.add_to(routes)

    # --- what is asked for -----------------------------------------------------------------------

    def _folders(self, values: Values) -> dict[str, Any]:
        rows = []
        for folder in self.folders.names():
            try:
                row = self._session(folder).progress(text_of(values, "name"))
            except (ValueError, OSError) as error:  # the others can still be labelled
                row = {"error": shorten(str(error))}
            rows.append({"folder": folder, **row})
        return {"folders": rows}

    def _view(self, values: Values) -> dict[str, Any]:
        place = text_of(values, "place")
        return self._session(values).view(
            text_of(values, "name"), is_active=_is_active(values), place=place
        )

    def _answer(self, values: Values) -> dict[str, Any]:
        name = text_of(values, "name")
        return self._session(values).answer(name, values, is_active=_is_active(values))

    def _undo(self, values: Values) -> dict[str, Any]:
        return self._session(values).undo(text_of(values, "name"), is_active=_is_active(values))

    def _image(self, values: Values) -> Path:
        return self._session(values).image(text_of(values, "group"), text_of(values, "image"))

    def _session(self, values: Values | str) -> LabelSession:
        name = values if isinstance(values, str) else text_of(values, "folder")
        folder = self.folders.find(name)
        if not (folder / GROUPS).is_file():
            raise FileNotFoundError(
                f"{quote(name)} has no {GROUPS}; make candidates with OneReward Generate Candidates"
            )
        with self._lock:
            return self._sessions.setdefault(folder, LabelSession(folder))


def _is_active(values: Values) -> bool:
    return values.get("active", True) not in (False, "false", "0")
