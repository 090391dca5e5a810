"""Write workflows/api/ anew: what the real front end exports for every template.

Needs Chromium. With ``--check`` nothing is written; the exit code is 1 if a file would change.
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
from support.server import ComfyServer  # noqa: E402
from support.workflows import API_FOLDER, api_workflows, templates  # noqa: E402


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
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(exported[path], encoding="utf-8")
    for path in stale:
        path.unlink()
    return 0


def _export_all() -> dict[Path, str]:
    exported = {}
    with tempfile.TemporaryDirectory() as folder:
        base, profile = Path(folder) / "comfyui", Path(folder) / "profile"
        base.mkdir()
        with ComfyServer(base) as server, Browser(profile) as browser:
            browser.open_front_end(server.url)
            for template in templates():
                browser.load_workflow(json.loads(template.read_text("utf-8")), template.stem)
                text = json.dumps(browser.export_api(), indent=2, ensure_ascii=False) + "\n"
                exported[API_FOLDER / template.name] = text
    return exported


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrowserError, RuntimeError) as error:
        sys.exit(str(error))
