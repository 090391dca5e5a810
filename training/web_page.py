"""A page of ours over HTTP: static files, JSON to and from them, and the checks that both need.

The same on ComfyUI's server and on one of the command line. What goes wrong is
``{"error": sentence}``. Only pages of the same server may ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..fill.io.json_text import quote, shorten

if TYPE_CHECKING:
    from aiohttp import web

WEB_FOLDER = Path(__file__).resolve().parents[1] / "web"
Values = Mapping[str, Any]
Work = Callable[[Values], "dict[str, Any] | Path"]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WebPage:
    """A folder of static files, and what they ask for.

    Example: ``WebPage(path="/onereward/training", folder="training", gets={"runs": list_runs},
    posts={}).add_to(routes)``.

    Attributes:
        path: Of the page; below it ``api/<name>`` answers.
        folder: In ``web``, with ``index.html``.
        gets: By name, what answers a GET: JSON of a dictionary, or a file.
        posts: By name, what answers a POST of a JSON object.
        is_local_only: Whether to refuse other names of this computer than those of its loopback.
    """

    path: str
    folder: str
    gets: Mapping[str, Work]
    posts: Mapping[str, Work]
    is_local_only: bool = False

    def add_to(self, routes: web.RouteTableDef) -> None:
        """Add the page and what it asks for to a server's routes."""
        for name, work in self.gets.items():
            routes.get(f"{self.path}/api/{name}")(self._handler(work))
        for name, work in self.posts.items():
            routes.post(f"{self.path}/api/{name}")(self._handler(work))
        routes.get(f"{self.path}/{{file}}")(self._file)
        routes.get(f"{self.path}/")(self._file)
        routes.get(self.path)(self._to_page)

    def _handler(self, work: Work) -> Any:
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

    async def _file(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        folder = WEB_FOLDER / self.folder
        path = folder / (request.match_info.get("file") or "index.html")
        if path.parent != folder or path.suffix not in _TYPES or not path.is_file():
            return _refusal(FileNotFoundError("there is no such page"), 404)
        headers = _HEADERS | {"Content-Type": f"{_TYPES[path.suffix]}; charset=utf-8"}
        return web.FileResponse(path, headers=headers)

    async def _to_page(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        target = f"{self.path.rpartition('/')[2]}/"  # relative, for servers behind a proxy
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
            raise PermissionError("only pages of this server may ask for this")


def text_of(values: Values, key: str) -> str:
    """Return a short text of a request, empty if it is not there; ValueError for anything else."""
    value = values.get(key, "")
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"{key} is {quote(value)}, but a short text is expected")
    return value


async def _values(request: web.Request) -> Values:
    if request.method != "POST":
        return request.query
    try:
        values = await request.json()
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError("the request is no JSON object")
    return values


def _refusal(error: Exception, status: int) -> web.Response:
    from aiohttp import web

    return web.json_response({"error": shorten(str(error))}, status=status, headers=_HEADERS)
