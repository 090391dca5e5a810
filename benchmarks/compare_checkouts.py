"""The images of two checkouts, bit for bit: a change that should change no image is shown so.

Runs the edit templates (those that save images) of both checkouts by their own ``scripts/demo.py``,
each in a ComfyUI of its own with its own package, and compares every image::

    .venv/bin/python benchmarks/compare_checkouts.py BEFORE AFTER --rename old_name=new_name

Prints a Markdown table and exits with 1 if an image differs or is missing in one of them::

    | template | image | equal |
    |---|---|---|
    | fill | fill-0.png | yes |
    | remove, photograph | remove-photograph-0.png | yes |

Both checkouts use the ComfyUI of this one, or that of ``COMFYUI_PATH``, and this Python.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support import machine  # noqa: E402  (after the path is set)

NOT_RESULTS = ("contact-sheet.png",)
"""Files of the demo that show how it went."""


def main() -> int:
    """Run both, compare, report."""
    parser = argparse.ArgumentParser(description="compare the images of two checkouts")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a template of BEFORE and its name in AFTER; may be given several times",
    )
    args = parser.parse_args()
    renames = dict(rename.split("=", 1) for rename in args.rename)
    with tempfile.TemporaryDirectory() as folder:
        sides = {"before": args.before.resolve(), "after": args.after.resolve()}
        images = {name: run_demo(root, Path(folder) / name) for name, root in sides.items()}
        rows = compare(renamed(images["before"], renames), images["after"])
    sys.stdout.write(as_table(rows))
    return 0 if rows and all(rows.values()) else 1


def run_demo(checkout: Path, folder: Path) -> dict[str, np.ndarray]:
    """Run the edit templates of a checkout; return the images by file name.

    Raises:
        RuntimeError: A job failed.
    """
    workflows, output = folder / "workflows", folder / "output"
    workflows.mkdir(parents=True)
    for path in sorted((checkout / "workflows" / "api").glob("*.json")):
        if graph := saving_graph(json.loads(path.read_text("utf-8"))):
            (workflows / path.name).write_text(json.dumps(graph), encoding="utf-8")
    (folder / "onereward").symlink_to(checkout, target_is_directory=True)
    process = subprocess.run(
        [
            *(sys.executable, str(checkout / "scripts" / "demo.py")),
            *("--workflows", str(workflows), "--output", str(output)),
        ],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(folder), "COMFYUI_PATH": str(machine.comfyui_path())},
        check=False,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise RuntimeError(f"the demo of {checkout} failed:\n{process.stdout}\n{process.stderr}")
    files = [path for path in output.glob("*.png") if path.name not in NOT_RESULTS]
    return {path.name: np.asarray(Image.open(path)) for path in sorted(files)}


def saving_graph(graph: dict[str, dict]) -> dict[str, dict] | None:
    """Return a workflow without its previews, which show tables too; None if it saves nothing."""
    if not any(node["class_type"] == "SaveImage" for node in graph.values()):
        return None
    return {key: node for key, node in graph.items() if node["class_type"] != "PreviewImage"}


def renamed(images: Mapping[str, np.ndarray], renames: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Give the files of renamed templates their new names: ``old-0.png`` becomes ``new-0.png``."""
    result = {}
    for name, image in images.items():
        template, dash, end = name.partition("-")
        result[renames.get(template, template) + dash + end] = image
    return result


def compare(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, bool]:
    """Return whether each image is there on both sides, with the same pixels."""
    return {
        name: name in before and name in after and np.array_equal(before[name], after[name])
        for name in sorted(set(before) | set(after))
    }


def as_table(rows: Mapping[str, bool]) -> str:
    """Return the report as Markdown."""
    lines = ["| template | image | equal |", "|---|---|---|"]
    for name, is_equal in rows.items():
        template = name.rpartition("-")[0].replace("-", ", ")
        lines.append(f"| {template} | {name} | {'yes' if is_equal else 'no'} |")
    equal = sum(rows.values())
    return "\n".join([*lines, "", f"{equal} of {len(rows)} images are equal.", ""])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(str(error))
