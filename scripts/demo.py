"""Edit images in a real headless ComfyUI, with the bundled model and the shipped workflows.

Writes every result and one contact sheet to ``demo-output/``; exits with 1 if any job failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import contact_sheet  # noqa: E402 - beside this file
import demo_images  # noqa: E402

from support.client import ApiError, ComfyClient, ComfyJob, Graph  # noqa: E402
from support.graph import load_graph, nodes_of  # noqa: E402
from support.server import ComfyServer  # noqa: E402
from support.workflows import runs_here  # noqa: E402

OUTPUT = ROOT / "demo-output"
EDITS = {
    "OneRewardFill": "fill",
    "OneRewardExtend": "extend",
    "OneRewardRemove": "remove",
    "OneRewardText": "text",
}
NATIVE = "OneRewardNativeInputs"
"""Prepares an edit for a KSampler; its input `task` says which."""
PHOTOGRAPH_WORKFLOW = "remove"


def main() -> int:
    """Run every workflow, then one of them on a photograph."""
    parser = argparse.ArgumentParser(description="Run the shipped workflows in a real ComfyUI.")
    parser.add_argument("--workflows", type=Path, default=ROOT / "workflows" / "api")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    paths = [path for path in sorted(arguments.workflows.glob("*.json")) if runs_here(path)]
    if not paths:
        sys.exit(f"no workflow in {arguments.workflows}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        server = ComfyServer(Path(base))
        try:
            _say("starting ComfyUI ...")
            with server:
                rows = _run_all(ComfyClient(server.url), paths, arguments.output)
        finally:
            if server.log_path.is_file():
                shutil.copyfile(server.log_path, arguments.output / "comfyui.log")
    sheet = arguments.output / "contact-sheet.png"
    contact_sheet.draw(rows).save(sheet)
    failed = [row.title for row in rows if row.error]
    _say(f"{len(rows) - len(failed)} of {len(rows)} jobs done; see {sheet}")
    return 1 if failed else 0


def _run_all(client: ComfyClient, paths: list[Path], output: Path) -> list[contact_sheet.SheetRow]:
    rows = []
    for path in paths:
        graph = load_graph(path)
        tasks = _tasks_by_image(graph)
        images = {node: demo_images.scene(task) for node, task in tasks.items()}
        rows.append(_run_one(client, path.stem, graph, images, output))
        if path.stem == PHOTOGRAPH_WORKFLOW:
            images = {node: demo_images.photograph() for node in tasks}
            rows.append(_run_one(client, f"{path.stem}, photograph", graph, images, output))
    if not any("photograph" in row.title for row in rows):
        raise RuntimeError(f"there is no workflow {PHOTOGRAPH_WORKFLOW}.json for the photograph")
    return rows


def _run_one(
    client: ComfyClient,
    title: str,
    graph: Graph,
    images: dict[str, Image.Image],
    output: Path,
) -> contact_sheet.SheetRow:
    name = title.replace(", ", "-")
    # The sources go into ComfyUI's input folder.
    for node, image in images.items():
        graph[node]["inputs"]["image"] = client.upload(image, f"{name}-source-{node}.png")
    # The job runs; a failure becomes the row's note.
    start = time.monotonic()
    results, error = [], None
    try:
        job = client.run(graph)
        error = None if job.succeeded else _reason(job)
        results = [
            (_name_of(graph, node), client.image(reference))
            for node in graph
            for reference in job.images(node)
        ]
        if not results:
            error = error or "the job showed no image"
    except ApiError as refused:
        error = "; ".join(refused.messages())
    except TimeoutError as late:
        error = str(late)
    seconds = time.monotonic() - start
    # The results are saved, and a row for the sheet says how it went.
    for index, (_, image) in enumerate(results):
        image.save(output / f"{name}-{index}.png")
    _say(f"{title}: {error or f'{seconds:.1f} s'}")
    return contact_sheet.SheetRow(
        title=title,
        sources=list(images.values()),
        results=results,
        seconds=seconds,
        error=error,
    )


def _name_of(graph: Graph, node: str) -> str:
    """Return the task of the edit behind an output node."""
    edits = {EDITS.get(graph[ancestor]["class_type"]) for ancestor in _ancestors(graph, node)}
    return " + ".join(sorted(filter(None, edits))) or "result"


def _reason(job: ComfyJob) -> str:
    return job.error or "the job was interrupted"


def _tasks_by_image(graph: Graph) -> dict[str, str]:
    """Return, for every LoadImage node, the task of the first edit that its image reaches."""
    edits = [(edit, task) for kind, task in EDITS.items() for edit in nodes_of(graph, kind)]
    edits += [(edit, graph[edit]["inputs"]["task"]) for edit in nodes_of(graph, NATIVE)]
    tasks: dict[str, str] = {}
    for edit, task in edits:
        for node in _ancestors(graph, edit):
            if graph[node]["class_type"] == "LoadImage":
                tasks.setdefault(node, task)
    return tasks


def _ancestors(graph: Graph, node: str) -> set[str]:
    ancestors: set[str] = set()
    waiting = [node]
    while waiting:
        for value in graph[waiting.pop()]["inputs"].values():
            if isinstance(value, list) and value[0] in graph and value[0] not in ancestors:
                ancestors.add(value[0])
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
