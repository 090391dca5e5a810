"""Write docs/images/ anew: every template in the real front end, before and after its run.

Needs Chromium. Templates for published models run on a model of their form with random weights;
their results show where the result appears, not what it looks like.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support import front_end  # noqa: E402 - found through the line above
from support.browser import Browser, BrowserError  # noqa: E402
from support.client import ComfyClient  # noqa: E402
from support.server import ComfyServer  # noqa: E402
from support.template_files import write_template_files  # noqa: E402
from support.workflows import api_path, missing_nodes, runs_here, templates  # noqa: E402

FOLDER = ROOT / "docs" / "images"
RECORD = "templates.json"
PACK = "OneReward"
"""The name on the nodes' badges."""
MOMENTS = ("before", "after")
WIDTH_PX = 1800
QUALITY = 60
MARGIN_PX = 60
"""Around the nodes, for groups and their titles; the page is as large as the whole graph."""
SETTINGS = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
}
"""What would cover nodes."""

GROUP_BOTTOMS = "window.app.graph._groups.map(group => group.pos[1] + group.size[1])"
# A note tells where a file is; a picture should not tell where it was taken.
SHORTEN = f"""
(folder => {{
  for (const part of document.querySelectorAll('.{front_end.TEXT_WIDGET} *'))
    part.textContent = part.textContent.replaceAll(folder, '...');
}})"""


def main() -> int:
    """Show, run and photograph the templates."""
    parser = argparse.ArgumentParser(description="Photograph every template.")
    parser.add_argument("--renderer", choices=front_end.RENDERERS, default="classic")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--before", action="store_true", help="run nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="templates to do again")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        base, profile = Path(temporary) / "comfyui", Path(temporary) / "profile"
        base.mkdir()
        write_template_files(base)
        with ComfyServer(base, pack_folder=PACK) as server, Browser(profile) as browser:
            _write_photographs(base / "input")
            browser.open_front_end(server.url)
            front_end.use_renderer(browser, arguments.renderer)
            for name, value in SETTINGS.items():
                front_end.change_setting(browser, name, value)
            browser.evaluate(
                "window.app.extensionManager.command.execute('Workspace.ToggleFocusMode')"
                ".then(() => null)"
            )
            client = ComfyClient(server.url)
            for template in templates():
                if arguments.only and template.stem not in arguments.only:
                    continue
                if missing := missing_nodes(template, client.object_info()):
                    sys.stdout.write(f"{template.stem}: left out, no {', '.join(missing)} here\n")
                    continue
                sys.stdout.write(f"{template.stem} ...\n")
                sys.stdout.flush()
                front_end.load(browser, template)
                _save(browser, arguments.folder / picture(template, "before"), base)
                if runs_here(template) and not arguments.before:
                    _run(browser, client, template)
                    _save(browser, arguments.folder / picture(template, "after"), base)
    _record(arguments.folder, arguments.only)
    return 0


def summary(template: Path) -> dict[str, Any]:
    """Return what a picture of a template shows: its nodes' types, the number of their widgets."""
    nodes = json.loads(template.read_text("utf-8"))["nodes"]
    return {
        "nodes": sorted(node["type"] for node in nodes),
        "widgets": sum(len(node.get("widgets_values") or []) for node in nodes),
    }


def _record(folder: Path, only: list[str] | None) -> None:
    path = folder / RECORD
    old = json.loads(path.read_text("utf-8")) if only and path.is_file() else {}
    new = {
        template.stem: summary(template)
        | {"pictures": [m for m in MOMENTS if (folder / picture(template, m)).is_file()]}
        for template in templates()
        if not only or template.stem in only
    }
    text = json.dumps(dict(sorted((old | new).items())), indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(gallery(folder), encoding="utf-8")


def picture(template: Path, moment: str) -> str:
    """Return the name of a template's picture ``before`` or ``after`` its run."""
    return f"{api_path(template).stem}-{moment}.webp"


def gallery(folder: Path) -> str:
    """Return a page with all pictures of the folder."""
    lines = ["# The templates, before and after a run", ""]
    lines += ["Written by `scripts/screenshots.py`. Those that start with *Demo* run the bundled"]
    lines += ["toy model. The others are shown with a stand-in of random weights: what they"]
    lines += ["need is not in the repository, and the real model's pictures look different."]
    for template in templates():
        lines += ["", f"## {template.stem}"]
        for moment in MOMENTS:
            if (folder / picture(template, moment)).is_file():
                lines += ["", f"![{template.stem}, {moment} its run]({picture(template, moment)})"]
    return "\n".join(lines) + "\n"


def _write_photographs(folder: Path) -> None:
    """Replace the tests' small pictures by the photograph that the pack brings."""
    examples = ROOT / "assets" / "examples" / "photo"
    with Image.open(examples / "coffee.png") as photograph:
        picture = photograph.convert("RGB")
    with Image.open(examples / "coffee_mask.png") as mask:
        picture.putalpha(ImageOps.invert(mask.convert("L")))
    for path in folder.glob("onereward_photo*.png"):
        picture.save(path)


def _run(browser: Browser, client: ComfyClient, template: Path) -> None:
    job = front_end.run(browser, client)
    if not job.succeeded:
        raise BrowserError(f"{template.stem}: {job.error}")


def _save(browser: Browser, path: Path, base: Path) -> None:
    """Save the whole graph, shrunk to ``WIDTH_PX``."""
    boxes = front_end.boxes(browser)
    width = max(box.right for box in boxes) - min(box.left for box in boxes)
    bottoms = [box.bottom for box in boxes] + browser.evaluate(GROUP_BOTTOMS)
    height = max(bottoms) - min(box.top for box in boxes)
    page = (round(width) + 2 * MARGIN_PX, round(height) + 2 * MARGIN_PX)
    browser.resize(*page)
    front_end.show_all(browser, margin_px=MARGIN_PX)
    front_end.boxes(browser)
    for folder in (base, ROOT):
        browser.evaluate(f"{SHORTEN}({json.dumps(str(folder))})")
    shot = path.with_suffix(".png")
    browser.screenshot(shot)
    with Image.open(shot) as image:
        size = (WIDTH_PX, round(image.height * WIDTH_PX / image.width))
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    small.save(path, quality=QUALITY, method=6)
    shot.unlink()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrowserError, RuntimeError) as error:
        sys.exit(str(error))
