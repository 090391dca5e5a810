"""The labelling page over HTTP, the same for ComfyUI's server and for ``onereward label --open``.

``onereward/labelling/`` is the page; below it ``api/folders``, ``api/view``, ``api/answer`` and
``api/undo`` give and take JSON, and ``api/image`` gives one image by folder, group and index. What
goes wrong is ``{"error": sentence}``. Only pages of the same server may ask.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ...fill.io.json_text import quote, shorten
from ...reward.preference import GROUPS
from .label_session import LabelSession

if TYPE_CHECKING:
    from aiohttp import web

PATH = "/onereward/labelling"
WEB_FOLDER = Path(__file__).resolve().parents[2] / "web" / "labelling"
_TYPES = {
    ".html": "text/html",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_MAX_TEXT = 300
"""Characters of a value in a request."""


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
        for name, work in {"folders": self._folders, "view": self._view}.items():
            routes.get(f"{PATH}/api/{name}")(self._handler(work))
        for name, work in {"answer": self._answer, "undo": self._undo}.items():
            routes.post(f"{PATH}/api/{name}")(self._handler(work))
        routes.get(f"{PATH}/api/image")(self._handler(self._image))
        routes.get(f"{PATH}/{{file}}")(self._page)
        routes.get(f"{PATH}/")(self._page)
        routes.get(PATH)(self._to_page)

    # --- what is asked for -----------------------------------------------------------------------

    def _folders(self, values: Mapping[str, Any]) -> dict[str, Any]:
        rows = []
        for folder in self.folders.names():
            try:
                row = self._session(folder).progress(_text(values, "name"))
            except (ValueError, OSError) as error:  # the others can still be labelled
                row = {"error": shorten(str(error))}
            rows.append({"folder": folder, **row})
        return {"folders": rows}

    def _view(self, values: Mapping[str, Any]) -> dict[str, Any]:
        place = _text(values, "place")
        return self._session(values).view(
            _text(values, "name"), is_active=_is_active(values), place=place
        )

    def _answer(self, values: Mapping[str, Any]) -> dict[str, Any]:
        name = _text(values, "name")
        return self._session(values).answer(name, values, is_active=_is_active(values))

    def _undo(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._session(values).undo(_text(values, "name"), is_active=_is_active(values))

    def _image(self, values: Mapping[str, Any]) -> Path:
        return self._session(values).image(_text(values, "group"), _text(values, "image"))

    def _session(self, values: Mapping[str, Any] | str) -> LabelSession:
        name = values if isinstance(values, str) else _text(values, "folder")
        folder = self.folders.find(name)
        if not (folder / GROUPS).is_file():
            raise FileNotFoundError(
                f"{quote(name)} has no {GROUPS}; make candidates with OneReward Generate Candidates"
            )
        with self._lock:
            return self._sessions.setdefault(folder, LabelSession(folder))

    # --- HTTP ------------------------------------------------------------------------------------

    def _handler(self, work: Callable[[Mapping[str, Any]], dict[str, Any] | Path]) -> Any:
        from aiohttp import web

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self._check_origin(request)
                result = await asyncio.to_thread(work, await _values(request))
            except PermissionError as error:
                return _refusal(error, 403)
            except FileNotFoundError as error:
                return _refusal(error, 404)
            except ValueError as error:
                return _refusal(error, 400)
            except OSError as error:
                return _refusal(error, 500)
            if isinstance(result, Path):
                return web.FileResponse(result, headers=_HEADERS)
            return web.json_response(result, headers=_HEADERS)

        return handle

    async def _page(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        path = WEB_FOLDER / (request.match_info.get("file") or "index.html")
        if path.parent != WEB_FOLDER or path.suffix not in _TYPES or not path.is_file():
            return _refusal(FileNotFoundError("there is no such page"), 404)
        headers = _HEADERS | {"Content-Type": f"{_TYPES[path.suffix]}; charset=utf-8"}
        return web.FileResponse(path, headers=headers)

    async def _to_page(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        target = f"{PATH.rpartition('/')[2]}/"  # relative, for servers behind a proxy
        return web.HTTPFound(f"{target}?{request.query_string}".rstrip("?"))

    def _check_origin(self, request: web.Request) -> None:
        """Refuse what a page of another site has sent (PermissionError), as browsers tell it."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        site = request.headers.get("Sec-Fetch-Site")
        is_ours = site in ("same-origin", "none") if site else True
        if origin and not site:
            is_ours = urlsplit(origin).netloc.lower() == host.lower()
        local = ("localhost", "127.0.0.1", "::1")
        if self.is_local_only and urlsplit(f"//{host}").hostname not in local:
            is_ours = False
        # Forms of other sites cannot send JSON, and scripts only after asking, which nobody allows.
        if request.method == "POST" and request.content_type != "application/json":
            is_ours = False
        if not is_ours:
            raise PermissionError("only the labelling page of this server may ask for this")


async def _values(request: web.Request) -> Mapping[str, Any]:
    if request.method != "POST":
        return request.query
    try:
        values = await request.json()
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError("the request is no JSON object")
    return values


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, "")
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"{key} is {quote(value)}, but a short text is expected")
    return value


def _is_active(values: Mapping[str, Any]) -> bool:
    return values.get("active", True) not in (False, "false", "0")


def _refusal(error: Exception, status: int) -> web.Response:
    from aiohttp import web

    return web.json_response({"error": shorten(str(error))}, status=status, headers=_HEADERS)
