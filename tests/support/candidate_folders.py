"""Folders of candidates with small pictures, as Generate Candidates leaves them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from onereward.fill.task import Task
from onereward.reward.preference import CandidateGroup, PreferenceSet
from onereward.training.labelling.label_session import LabelSession

COLOURS = ("#c0392b", "#27648f", "#3c8d40", "#a97b1c", "#6d4aa0", "#357f7f", "#8c4a6b", "#5d6b2f")


def make_candidates(
    folder: Path,
    counts: tuple[int, ...] = (2, 2, 2),
    task: Task = Task.FILL,
    size: tuple[int, int] = (96, 64),
) -> PreferenceSet:
    """Write a group per count, with so many candidates; each is a kite of another colour."""
    data = PreferenceSet(folder)
    width, height = size
    box = (width // 3, height // 4, 2 * width // 3, 3 * height // 4)
    for number, count in enumerate(counts):
        prefix = f"images/scene-{number}/model"
        names = [f"{prefix}/{index}.png" for index in range(count)]
        source = _scene(size, number)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        pictures = {f"{prefix}/source.png": source, f"{prefix}/mask.png": mask}
        for index, name in enumerate(names):
            pictures[name] = _kite(source, box, COLOURS[index % len(COLOURS)])
        for name, picture in pictures.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(folder / name)
        data.add_group(
            CandidateGroup(
                file_names=tuple(names),
                task=task,
                condition=f"scene-{number}",
                source_file_name=f"{prefix}/source.png",
                mask_file_name=f"{prefix}/mask.png",
                prompt="a kite above the beach",
                settings=tuple({"steps": 28, "seed": index} for index in range(count)),
                made_by="model",
            )
        )
    return data


def press(session: LabelSession, view: dict[str, Any], choice: Any, name: str = "Ada") -> Any:
    """Answer the view's question by a place on the screen, or another choice."""
    question = view["question"]
    index = question["candidates"][choice] if isinstance(choice, int) else choice
    key = {name: question[name] for name in ("group", "dimension", "stage")} | {"choice": index}
    return session.answer(name, key)


def label_by_chance(folder: Path, name: str, seed: int) -> None:
    """Answer everything by chance, and take every fourth key back; as a process of its own."""
    session, choices = LabelSession(folder), random.Random(seed)
    view = session.view(name)
    while view["question"]:
        view = press(session, view, choices.choice([0, 1, "tie"]), name)
        if choices.random() < 0.25:
            view = session.undo(name)


def _scene(size: tuple[int, int], number: int) -> Image.Image:
    width, height = size
    picture = Image.new("RGB", size, ("#9cc3dd", "#d9c7a0", "#b9a7c9")[number % 3])
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 2 * height // 3, width, height), fill="#d8c38f")
    draw.line((0, 2 * height // 3, width, 2 * height // 3), fill="#5d7f95", width=height // 32)
    return picture


def _kite(source: Image.Image, box: tuple[int, ...], colour: str) -> Image.Image:
    left, top, right, bottom = box
    picture, middle = source.copy(), ((left + right) // 2, (top + bottom) // 2)
    corners = [(middle[0], top), (right, middle[1]), (middle[0], bottom), (left, middle[1])]
    ImageDraw.Draw(picture).polygon(corners, fill=colour)
    return picture
