"""Section 7: photographs, by measures that need no truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from ....training.evaluation.config import EvalConfig
from ....training.evaluation.report import MAX_SHOWN, Row
from ....training.evaluation.run import BASELINE, MODEL, RESULTS
from ....training.policy.config import FIXED
from ...base_model.photographs import PHOTOGRAPHS
from ..measure import BASE
from ..photos import PHOTOS
from ..stage import Context
from .cells import NONE, bounded, decided, number, table
from .names import label
from .signs import Change, compare

_MEASURES = ("seam", "tone", "texture")
_SHEETS = """The first {num} edits of alg. 1 and of alg. 2, whatever became of them, below their own
tables; two in a row, each: source (without its mask), the policy's result, the base's."""


def photos_table(context: Context) -> str:
    """Return base, alg. 1 and 2 by task."""
    found = context.read(PHOTOS)
    if not found["crops"]:
        return "Left out: no folder of photographs was given (`make reproduce PHOTOS=FOLDER`)."
    rows = [["task", "model", "edits", "sound (95 %)", "won / lost", "p", *_MEASURES]]
    models = {name: numbers["sides"] for name, numbers in found["models"].items()}
    tests = {name: sound_changes(context, name, found["models"][name]) for name in models}
    for task, sides in models[FIXED].items():
        # The base is the baseline of both, with the same images.
        each = {BASE: sides[BASELINE]} | {n: s[task][MODEL] for n, s in models.items() if task in s}
        for name, one in each.items():
            change = tests.get(name, {}).get(task)
            tested = decided(change) if change else [NONE, NONE]
            cells = [str(one["edits"]), _sound(one), *tested]
            values = [number(one.get(key)) for key in _MEASURES]
            rows.append([task, label(context.config, name), *cells, *values])
    return table(rows)


def files_text(context: Context) -> str:
    """Say how many crops of which photographs, and under which licence each is, if it is known."""
    found = context.read(PHOTOS)
    if not found["crops"]:
        return ""
    known = {photo.file: photo for photo in PHOTOGRAPHS}
    lines = [f"{found['crops']} crops, cut in turn from these photographs:", ""]
    for name in found["files"]:
        photo = known.get(name)
        about = f"{photo.package}, {photo.licence}" if photo else "not of the repository's list"
        lines.append(f"- {name}: {about}")
    lines += ["", _SHEETS.format(num=MAX_SHOWN)]
    return "\n".join(lines)


def sound_changes(context: Context, name: str, numbers: Mapping[str, Any]) -> dict[str, Change]:
    """Compare a model with the base, edit by edit, by whether both results are sound."""
    path = context.result(f"{PHOTOS}-{name}").with_suffix("") / RESULTS
    if not path.is_file():
        return {}
    config = EvalConfig(**numbers["config"])
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [Row(**json.loads(line)) for line in lines]
    groups = {row.task: [r for r in rows if r.task == row.task] for row in rows}
    return {
        task: compare(
            *(torch.tensor([r.is_sound(side, config) for r in own]) for side in (BASELINE, MODEL))
        )
        for task, own in (groups | {"all": rows}).items()
        if own
    }


def _sound(one: Mapping[str, Any]) -> str:
    found = one.get("sound")
    return bounded(found["share"], (found["low"], found["high"])) if found else NONE
