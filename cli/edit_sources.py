"""What ``onereward edit`` takes from a folder, what it leaves, and where each result goes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

OUTPUT = "edited"
"""Folder beside the source, where none is named."""
MAX_NAMES = 20
"""Of files that are no images, before the list is cut."""


@dataclass(frozen=True, slots=True)
class EditJob:
    """One image to edit. Example: ``EditJob(Path("a.png"), Path("edited/a_fill.png"), 0, 1)``."""

    source: Path
    target: Path
    seed: int
    number: int
    """Its place among the images, from 1."""


def list_jobs(arguments: argparse.Namespace) -> list[EditJob]:
    """Return a job for each image, by name.

    Raises:
        FileNotFoundError: There is no image.
        ValueError: The options do not fit the source, or two results would be one file.
    """
    from ..fill.io.photo import ENDS, list_photos
    from ..fill.request import MAX_SEED

    # Where the results go, and as what.
    is_folder = arguments.source.is_dir()
    if arguments.mask is not None and is_folder:
        raise ValueError("--mask is for a single image; a folder has one file for each")
    end = "." + arguments.format.lower().lstrip(".") if arguments.format else ""
    if end and end not in ENDS:
        raise ValueError(f"--format is {arguments.format}; choose one of: {', '.join(ENDS)}")
    sources = list_photos(arguments.source)
    folder = arguments.source if is_folder else arguments.source.parent
    output = arguments.output or folder / OUTPUT
    if is_folder and output.resolve() == folder.resolve():
        raise ValueError(
            f"{output} is the folder of the sources, whose results would be taken for sources; "
            "choose another --output"
        )
    # One for each.
    jobs: dict[Path, EditJob] = {}
    for index, source in enumerate(sources):
        # Other formats can be read, but not written without loss, or not at all.
        usual_end = source.suffix if source.suffix.lower() in ENDS else ".png"
        target = output / f"{source.stem}_{arguments.task}{end or usual_end}"
        if target in jobs:
            raise ValueError(
                f"{jobs[target].source.name} and {source.name} would both become {target.name}; "
                "leave --format out, or rename one of them"
            )
        seed = (arguments.seed + index) % (MAX_SEED + 1)
        jobs[target] = EditJob(source, target, seed, index + 1)
    return list(jobs.values())


def name_others(folder: Path) -> int:
    """Name the files of a folder that are not edited, and why.

    Returns:
        How many of them are images, which someone may miss among the results.
    """
    from ..fill.io.image_file import unread_images
    from ..fill.io.photo import ENDS, MASK_END

    if not folder.is_dir():
        return 0
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")
    images = {file.stem for file in files if file.suffix.lower() in ENDS}
    # Images that cannot be read.
    unread = unread_images(folder)
    for name, advice in unread.items():
        sys.stderr.write(f"onereward: {name}: {advice}\n")
    # What is no image, prompt or mask of one.
    strangers = []
    for file in files:
        end = file.suffix.lower()
        is_mask = end in ENDS and file.stem.endswith(MASK_END)
        if is_mask or end == ".txt":
            belongs = file.stem.removesuffix(MASK_END if is_mask else "") in images
        else:
            belongs = end in ENDS or file.name in unread
        if not belongs:
            strangers.append(file.name)
    if strangers:
        more = ", ..." if len(strangers) > MAX_NAMES else ""
        names = ", ".join(strangers[:MAX_NAMES]) + more
        sys.stderr.write(
            f"onereward: skipped {len(strangers)} files that are no images, nor belong to one: "
            f"{names}\n"
        )
    return len(unread)
