"""Write workflows/api/ anew: what the real front end exports for every template.

Needs Chromium. A template with nodes that this ComfyUI lacks keeps its file; `COMFYUI_PATH` chooses
a newer one. With ``--check`` nothing is written; the exit code is 1 if a file would change.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import Browser, BrowserError  # noqa: E402 - found through the line above
from support.client import ComfyClient  # noqa: E402
from support.server import ComfyServer  # noqa: E402
from support.template_files import write_template_files  # noqa: E402
from support.workflows import api_path, api_workflows, missing_nodes, templates  # noqa: E402


def main() -> int:
    """Export every template."""
    parser = argparse.ArgumentParser(description="Export the templates in API format.")
    parser.add_argument("--check", action="store_true", help="only compare")
    is_check = parser.parse_args().check
    exported = _export_all()
    stale = [path for path in api_workflows() if path not in exported]
    stale_or_new = [path for path, text in exported.items() if _read(path) != text]
    for path in [*stale_or_new, *stale]:
        sys.stdout.write(f"{'would change' if is_check else 'writing'} {path.name}\n")
    if is_check:
        return 1 if stale_or_new or stale else 0
    for path in stale_or_new:
        text = exported[path]
        assert text is not None, "what stays is not written"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in stale:
        path.unlink()
    return 0


def _export_all() -> dict[Path, str | None]:
    exported: dict[Path, str | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        base, profile = Path(folder) / "comfyui", Path(folder) / "profile"
        base.mkdir()
        write_template_files(base)
        with ComfyServer(base) as server, Browser(profile) as browser:
            browser.open_front_end(server.url)
            object_info = ComfyClient(server.url).get("/object_info")
            for template in templates():
                path = api_path(template)
                if missing := missing_nodes(template, object_info):
                    sys.stdout.write(f"{path.name} stays: no {', '.join(missing)} here\n")
                    exported[path] = _read(path)
                    continue
                browser.load_workflow(json.loads(template.read_text("utf-8")), template.stem)
                text = json.dumps(browser.export_api(), indent=2, ensure_ascii=False) + "\n"
                exported[path] = text
    return exported


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrowserError, RuntimeError) as error:
        sys.exit(str(error))
