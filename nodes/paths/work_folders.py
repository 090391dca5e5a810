"""Where a user's data is: images in ComfyUI's input and output folders, results in output."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ...fill.io.names import check_name
from ...fill.io.photo import ENDS
from ...fill.task import Task
from ...reward.preference import GROUPS, PAIRS
from ...training.data.conditions import FILE_NAME
from ...training.runs.directory import saved_step
from .folders import ASSETS

OUTPUT_MARK = " [output]"
"""Ends the names of folders below output, as ComfyUI's own names do."""
BUNDLED_MARK = " [bundled]"
"""Ends the names of the examples that come with this pack."""
EXAMPLES = ASSETS / "examples"
DEFAULT_EXAMPLE = "toy-train" + BUNDLED_MARK
"""Scenes like those that the bundled models were trained on."""
_MAX_DEPTH = 4
_MAX_LISTED = 500


def name_input(where: str, default: str = "my-data") -> io.Input:
    """Return the input that names a data set or run."""
    return io.String.Input(
        "name",
        default=default,
        tooltip=f"Name of its folder in {where}: letters, digits, space, '.', '_' and '-'.",
    )


def work_folder(kind: str, name: str) -> Path:
    """Return the folder of a data set or run below ComfyUI's output folder.

    Raises:
        ValueError: The name is not a plain name.
    """
    check_name(name)
    return Path(folder_paths.get_output_directory()) / "onereward" / kind / name


def run_stamp(kind: str, name: str) -> Hashable:
    """Return the saved step of a training run; it changes while there is something left to do."""
    try:
        return saved_step(work_folder(kind, name))
    except (ValueError, TypeError):
        return ()


def new_adapter_file(name: str) -> tuple[Path, str]:
    """Return where an adapter of this name goes, and its name in ComfyUI's lists.

    Raises:
        ValueError: The name is not a plain name.
    """
    check_name(name)
    label = f"onereward/{name}.safetensors"
    return Path(folder_paths.get_folder_paths("loras")[0]) / label, label


def image_folders() -> list[str]:
    """Return the folders that hold images or conditions; bundled examples first."""
    labels: list[str] = []
    for mark, root in _roots():
        labels += [name + mark for name in _below(Path(root), _MAX_DEPTH) if name]
    return _sort_labels(labels)


def preference_folders() -> list[str]:
    """Return the folders of preference data; the bundled example first."""
    labels: list[str] = []
    for mark, root in _roots():
        labels += [name + mark for name in _data_below(Path(root), _MAX_DEPTH)]
    return _sort_labels(labels)


def data_folder(label: str) -> Path:
    """Return the folder of preference data of a label; raises as :func:`image_folder`."""
    folder = image_folder(label)
    if not any((folder / name).is_file() for name in (PAIRS, GROUPS)):
        raise FileNotFoundError(
            f"{folder} has neither {PAIRS} nor {GROUPS}; choose a folder of preference data"
        )
    return folder


def image_folder(label: str) -> Path:
    """Return the folder of a label.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The name leaves ComfyUI's folder.
    """
    mark = next((mark for mark in (OUTPUT_MARK, BUNDLED_MARK) if label.endswith(mark)), "")
    root = Path(dict(_roots())[mark])
    # Links inside are followed, as for models; the name itself must not lead out.
    folder = Path(os.path.normpath(root / label.removesuffix(mark)))
    if not folder.is_relative_to(os.path.normpath(root)) or folder == root:
        raise ValueError(f"folder {label!r} leaves {root}; choose one from the list")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {label!r} below {root}; put one there and press R"
        )
    return folder


def _data_below(folder: Path, depth: int, prefix: str = "") -> Iterator[str]:
    if not depth or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        below = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    for entry in below:
        name = prefix + entry.name
        if any(os.path.isfile(os.path.join(entry.path, file)) for file in (PAIRS, GROUPS)):
            yield name
        else:
            yield from _data_below(Path(entry.path), depth - 1, name + "/")


def check_writable(folder: Path) -> None:
    """Raise ValueError for a folder of the bundled examples: an update would undo the change."""
    if folder.is_relative_to(EXAMPLES):
        raise ValueError(
            f"{folder} is a bundled example, which stays as it is; copy it below ComfyUI's output "
            "folder and choose the copy"
        )


def _roots() -> tuple[tuple[str, str], ...]:
    return (
        ("", folder_paths.get_input_directory()),
        (OUTPUT_MARK, folder_paths.get_output_directory()),
        (BUNDLED_MARK, str(EXAMPLES)),
    )


def _sort_labels(labels: list[str]) -> list[str]:
    """Sort labels and cut the list; the bundled ones come first: they are always there."""
    bundled = [label for label in labels if label.endswith(BUNDLED_MARK)]
    users = [label for label in labels if not label.endswith(BUNDLED_MARK)]
    return [*sorted(bundled), *sorted(users)[:_MAX_LISTED]]


def _below(folder: Path, depth: int, prefix: str = "") -> Iterator[str]:
    """Yield the names of folders that hold images or conditions, or task folders that do."""
    if not depth or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        children = sorted(entries, key=lambda entry: entry.name)
    names = {entry.name for entry in children}
    if names & {PAIRS, GROUPS}:
        return
    has_images = any(name.lower().endswith(ENDS) for name in names)
    if FILE_NAME in names or has_images or names & {task.value for task in Task}:
        yield prefix.rstrip("/")
    if FILE_NAME in names:
        return
    for entry in children:
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != "masks":
            yield from _below(Path(entry.path), depth - 1, f"{prefix}{entry.name}/")
