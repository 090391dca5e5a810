"""Run the shipped demo workflows in a real headless ComfyUI, as they are.

Writes every image, and one contact sheet of the edits, to ``demo-output/``; exits with 1 if any
job failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import contact_sheet  # noqa: E402 - beside this file

from support.client import ApiError, ComfyClient, ComfyJob, Graph  # noqa: E402
from support.graph import load_graph  # noqa: E402
from support.server import ComfyServer  # noqa: E402
from support.workflows import DEMO, demo_workflows  # noqa: E402

OUTPUT = ROOT / "demo-output"
EXAMPLES = ROOT / "assets" / "examples"
BUNDLED = " [bundled]"
"""Ends the name of an example folder in OneReward Load Folder."""
EDITS = {
    "OneRewardFill": "fill",
    "OneRewardExtend": "extend",
    "OneRewardRemove": "remove",
    "OneRewardText": "text",
    "OneRewardNativeInputs": "",
}
"""Nodes that say what is edited, and their task; empty: their input ``task`` says it."""
JUDGE, BEST, RANKED = "OneRewardPickBest", 0, 1
"""The node that ranks candidates, and two of its outputs."""
MAKERS = {*EDITS, JUDGE, "OneRewardStitch"} - {"OneRewardNativeInputs"}
"""Nodes whose images are edits; those of others are charts, tables and data sets."""
JOB_TIMEOUT_S = 900.0
ORDER = ("fill", "extend", "remove", "text", "native nodes", "pick the best of 8")
"""Rows of the sheet that come first."""


def main() -> int:
    """Run every demo workflow, and draw the sheet."""
    parser = argparse.ArgumentParser(description="Run the demo workflows in a real ComfyUI.")
    parser.add_argument("--workflows", type=Path, help="folder of others in API format")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    folder: Path | None = arguments.workflows
    paths = sorted(folder.glob("*.json")) if folder else demo_workflows()
    if not paths:
        sys.exit(f"no workflow in {folder}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        server = ComfyServer(Path(base))
        try:
            _say("starting ComfyUI ...")
            with server:
                client = ComfyClient(server.url)
                rows = [_run(client, path, arguments.output) for path in paths]
        finally:
            if server.log_path.is_file():
                shutil.copyfile(server.log_path, arguments.output / "comfyui.log")
    rows.sort(key=lambda row: ORDER.index(row.title) if row.title in ORDER else len(ORDER))
    sheet = arguments.output / "contact-sheet.png"
    contact_sheet.draw(rows).save(sheet)
    failed = [row.title for row in rows if row.error]
    _say(f"{len(rows) - len(failed)} of {len(rows)} jobs done; see {sheet}")
    return 1 if failed else 0


def _run(client: ComfyClient, path: Path, output: Path) -> contact_sheet.SheetRow:
    """Run one workflow untouched, save what it shows, and return its row."""
    graph, title = load_graph(path), path.stem.removeprefix(DEMO).replace("_", " ")
    start = time.monotonic()
    images: dict[str, list[Image.Image]] = {}
    references: dict[str, list[dict[str, str]]] = {}
    try:
        job = client.run(graph, JOB_TIMEOUT_S)
        error = None if job.succeeded else _reason(job)
        references = {node: job.images(node) for node in graph if job.images(node)}
        images = {node: [client.image(ref) for ref in refs] for node, refs in references.items()}
        if not images:
            error = error or "the job showed no image"
    except ApiError as refused:
        error = "; ".join(refused.messages())
    except TimeoutError:  # its own text holds the last pictures
        error = f"it was not done after {JOB_TIMEOUT_S:.0f} s"
    seconds = time.monotonic() - start
    for index, image in enumerate(image for batch in images.values() for image in batch):
        image.save(output / f"{path.stem}-{index}.png")
    cells: list[contact_sheet.SheetCell] = []
    for node, batch in images.items():
        cells += _cells(client, graph, node, batch, references[node])
    _say(f"{title}: {error or f'{seconds:.1f} s'}")
    return contact_sheet.SheetRow(
        title=title, cells=_without_repeats(cells), seconds=seconds, error=error
    )


def _cells(
    client: ComfyClient,
    graph: Graph,
    node: str,
    images: list[Image.Image],
    references: list[dict[str, str]],
) -> list[contact_sheet.SheetCell]:
    """Return source and results of an output node; none where it shows no edits."""
    maker, slot = _maker(graph, node)
    kind = graph[maker]["class_type"] if maker else ""
    edit = _edit_behind(graph, maker)
    if kind not in MAKERS or not edit or (kind == JUDGE and slot != RANKED):
        return []
    caption = _caption(graph[edit])
    if kind == JUDGE:
        captions = ["the judge's choice", *(f"place {n}" for n in range(2, len(images) + 1))]
        results = [
            contact_sheet.SheetCell(caption=text, image=image, is_chosen=place == 0)
            for place, (text, image) in enumerate(zip(captions, images, strict=True))
        ]
        return [*_sources(client, graph, edit, caption), *results]
    cells = []
    for image, reference in zip(images, references, strict=True):
        cells += _sources(client, graph, edit, "source", reference["filename"])
        cells.append(contact_sheet.SheetCell(caption=caption, image=image))
    return cells


def _sources(
    client: ComfyClient, graph: Graph, edit: str, caption: str, result: str = ""
) -> list[contact_sheet.SheetCell]:
    """Return the image that an edit starts from: of a folder the one named as the result is."""
    for node in [edit, *_ancestors(graph, edit)]:
        kind, inputs = graph[node]["class_type"], graph[node]["inputs"]
        image = None
        if kind == "LoadImage":
            image = client.image({"filename": inputs["image"], "type": "input"})
        elif kind == "OneRewardLoadFolder" and inputs["folder"].endswith(BUNDLED):
            folder = EXAMPLES / inputs["folder"].removesuffix(BUNDLED)
            image = Image.open(folder / f"{result.split('_')[0]}.png")
        if image is not None:
            # Extend repaints what it adds, whatever is erased.
            mode = "RGB" if _task(graph[edit]) == "extend" else "RGBA"
            return [contact_sheet.SheetCell(caption=caption, image=image.convert(mode))]
    return []


def _without_repeats(cells: list[contact_sheet.SheetCell]) -> list[contact_sheet.SheetCell]:
    """Leave out a source that the row has already."""
    unique: list[contact_sheet.SheetCell] = []
    for cell in cells:
        pixels = cell.image.convert("RGB").tobytes()
        if not any(pixels == before.image.convert("RGB").tobytes() for before in unique):
            unique.append(cell)
    return unique


def _maker(graph: Graph, node: str) -> tuple[str, int]:
    """Return the node and the output that an output node's images come from."""
    link = graph[node]["inputs"].get("images")
    return (link[0], link[1]) if isinstance(link, list) else ("", 0)


def _edit_behind(graph: Graph, node: str) -> str:
    """Return the nearest edit from which a node's images come; empty for none."""
    nodes = [node, *_ancestors(graph, node)] if node else []
    return next((n for n in nodes if graph[n]["class_type"] in EDITS), "")


def _task(node: dict[str, Any]) -> str:
    return EDITS[node["class_type"]] or node["inputs"]["task"]


def _caption(node: dict[str, Any]) -> str:
    """Say what an edit was asked for."""
    inputs, task = node["inputs"], _task(node)
    names = {"text": "text", "extend": "aspect"}
    words = inputs.get(names.get(task, "prompt"), "")
    if not isinstance(words, str) or not words:
        return task
    return f"{task} to {words}" if task == "extend" else f"{task}: {words}"


def _reason(job: ComfyJob) -> str:
    return job.error or "the job was interrupted"


def _ancestors(graph: Graph, node: str) -> list[str]:
    """Return the nodes that a node's inputs come from, nearest first."""
    ancestors: list[str] = []
    waiting = [node]
    while waiting:
        for value in graph[waiting.pop(0)]["inputs"].values():
            if isinstance(value, list) and value[0] in graph and value[0] not in ancestors:
                ancestors.append(value[0])
                waiting.append(value[0])
    return ancestors


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(str(error))
