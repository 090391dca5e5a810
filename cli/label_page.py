"""``onereward label --open FOLDER``: the labelling page of the ComfyUI nodes, without ComfyUI."""

from __future__ import annotations

import asyncio
import sys
import webbrowser
from pathlib import Path
from urllib.parse import quote

from .version import PACKAGE_ROOT

HOST = "127.0.0.1"
"""Nobody but this computer is served."""


def serve_label_page(folder: Path) -> int:
    """Serve the page for one folder and open it in a browser, until Ctrl-C.

    Raises:
        ValueError: The folder has no candidates, or aiohttp is not installed.
    """
    from ..reward.preference import GROUPS

    folder = folder.resolve()
    if not (folder / GROUPS).is_file():
        raise ValueError(
            f"{folder} has no {GROUPS}; name a folder of candidates, as OneReward Generate "
            "Candidates or `onereward generate` makes it"
        )
    if folder.is_relative_to(PACKAGE_ROOT):
        raise ValueError(f"{folder} is part of this package; copy it and name the copy")
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise ValueError(
            "labelling by hand needs the library aiohttp, which ComfyUI has; run `pip install "
            "aiohttp`"
        ) from None
    try:
        asyncio.run(_serve(folder))
    except KeyboardInterrupt:
        sys.stdout.write("every answer is saved; the same command goes on\n")
    return 0


async def _serve(folder: Path) -> None:
    from aiohttp import web

    from ..training.labelling.label_routes import PATH, LabelServer, OneFolder

    # A server on a free port.
    app, routes = web.Application(), web.RouteTableDef()
    LabelServer(OneFolder(folder), is_local_only=True).add_to(routes)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    # Its page.
    port = runner.addresses[0][1]
    url = f"http://{HOST}:{port}{PATH}/?folder={quote(folder.name)}"
    sys.stdout.write(f"{url}\nCtrl-C ends it\n")
    sys.stdout.flush()
    webbrowser.open(url)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
