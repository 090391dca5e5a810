"""What the training panel asks for: runs, one run, its images; and what it can ask of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...fill.io.json_text import shorten
from ..runs.run_requests import ask
from ..web_page import Values, WebPage, text_of
from .run_view import is_running, run_summary, run_view, sample_file

if TYPE_CHECKING:
    from aiohttp import web

PATH = "/onereward/training"


class RunFolders(Protocol):
    """Which runs may be looked at. Example: ``folders.find("policies/mine")``."""

    def names(self) -> Sequence[str]:
        """Return all, the last changed first."""
        ...

    def find(self, name: str) -> Path:
        """Return a run's folder; ValueError unless it is one of them."""
        ...


def add_panel(folders: RunFolders, routes: web.RouteTableDef) -> None:
    """Add the panel to a server's routes."""

    def runs(_: Values) -> dict[str, Any]:
        rows: list[Mapping[str, Any]] = []
        for name in folders.names():
            try:
                rows.append({"run": name, **run_summary(folders.find(name))})
            except (OSError, ValueError) as error:  # the others can still be shown
                rows.append({"run": name, "error": shorten(str(error))})
        return {"runs": rows}

    def request(values: Values) -> dict[str, Any]:
        run = folders.find(text_of(values, "run"))
        if not is_running(run):
            raise ValueError("the run is not running now; queue it first")
        ask(run, text_of(values, "request"))
        return {"asked": text_of(values, "request")}

    page = WebPage(
        path=PATH,
        folder="training",
        gets={
            "runs": runs,
            "run": lambda values: run_view(folders.find(text_of(values, "run"))),
            "sample": lambda values: sample_file(
                folders.find(text_of(values, "run")),
                text_of(values, "place"),
                text_of(values, "index"),
            ),
        },
        posts={"request": request},
    )
    page.add_to(routes)
