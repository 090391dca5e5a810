"""Where a user's data is: images in ComfyUI's input and output folders, results in output."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ...fill.io.json_text import label_of, quote
from ...fill.io.names import check_name
from ...fill.io.photo import ENDS, MASK_FOLDER
from ...fill.task import Task
from ...reward.preference import GROUPS, PAIRS
from ...training.data.conditions import FILE_NAME
from ...training.runs.directory import saved_step
from .folder_walk import walk_folders
from .folders import ASSETS

OUTPUT_MARK = " [output]"
"""Ends the names of folders below output, as ComfyUI's own names do."""
BUNDLED_MARK = " [bundled]"
"""Ends the names of the examples that come with this pack."""
EXAMPLES = ASSETS / "examples"
DEFAULT_EXAMPLE = "toy-train" + BUNDLED_MARK
"""Scenes like those that the bundled models were trained on."""
_MAX_LISTED = 500


def name_input(where: str, default: str = "my-data") -> io.Input:
    """Return the input that names a data set or run."""
    return io.String.Input(
        "name",
        default=default,
        tooltip=f"Name of its folder in {where}: letters, digits, space, '.', '_' and '-'.",
    )


def work_folder(kind: str, name: str, what: str = "name") -> Path:
    """Return the folder of a data set or run below ComfyUI's output folder.

    Example: ``work_folder("policies", "my-policy")``.

    Args:
        kind: The folder above it.
        name: Its name.
        what: The input that names it.

    Raises:
        ValueError: The name is not a plain name, or that of something else than a folder.
    """
    check_name(name, what)
    folder = Path(folder_paths.get_output_directory()) / "onereward" / kind / name
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise ValueError(f"{what} is {name!r}, but {label_of(folder)} is no folder; choose another")
    return folder


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

    def visit(name: str, entries: set[str], names: list[str]) -> bool:
        if Path(name).name == MASK_FOLDER or entries & {PAIRS, GROUPS}:
            return False
        has_images = any(entry.lower().endswith(ENDS) for entry in entries)
        if FILE_NAME in entries or has_images or entries & {task.value for task in Task}:
            names.append(name)
        return FILE_NAME not in entries

    return _labels(3, visit)


def preference_folders() -> list[str]:
    """Return the folders of preference data; the bundled example first."""

    def visit(name: str, entries: set[str], names: list[str]) -> bool:
        is_data = bool(entries & {PAIRS, GROUPS})
        names += [name] if is_data else []
        return not is_data

    return _labels(4, visit)


def _labels(levels: int, visit: Callable[[str, set[str], list[str]], bool]) -> list[str]:
    """Return the labels of the folders whose names a visit collects; the bundled ones first."""
    bundled: list[str] = []
    users: list[str] = []
    for mark, root in _roots():
        names: list[str] = []
        walk_folders(
            Path(root), levels, lambda name, _, entries, names=names: visit(name, entries, names)
        )
        (bundled if mark == BUNDLED_MARK else users).extend(name + mark for name in names)
    return [*sorted(bundled), *sorted(users)[:_MAX_LISTED]]


def data_folder(label: str) -> Path:
    """Return the folder of preference data of a label; raises as :func:`image_folder`."""
    folder = image_folder(label)
    if not any((folder / name).is_file() for name in (PAIRS, GROUPS)):
        raise FileNotFoundError(
            f"{label_of(folder)} has neither {PAIRS} nor {GROUPS}; choose a folder of preference "
            "data"
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
        raise ValueError(f"folder {quote(label)} leaves {label_of(root)}; choose one from the list")
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"there is no folder {quote(label)} below {label_of(root)}; put one there and press R"
        )
    return folder


def check_writable(folder: Path) -> None:
    """Raise ValueError for a folder of the bundled examples: an update would undo the change."""
    if folder.is_relative_to(EXAMPLES):
        raise ValueError(
            f"{label_of(folder)} is a bundled example, which stays as it is; copy it below "
            "ComfyUI's output folder and choose the copy"
        )


def _roots() -> tuple[tuple[str, str], ...]:
    return (
        ("", folder_paths.get_input_directory()),
        (OUTPUT_MARK, folder_paths.get_output_directory()),
        (BUNDLED_MARK, str(EXAMPLES)),
    )
