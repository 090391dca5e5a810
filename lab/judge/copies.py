"""Copies of a judge's folder with other weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ...reward.judge import JudgeError
from ...reward.report import FILE_NAME as REPORT

WEIGHTS = "model.safetensors"


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Return a judge's weights.

    Raises:
        JudgeError: They are not in one file.
    """
    if not (folder / WEIGHTS).is_file():
        raise JudgeError(f"{folder} has no {WEIGHTS}; save the judge in one file first")
    return load_file(folder / WEIGHTS)


@contextmanager
def judge_like(source: Path, target: Path) -> Iterator[Path]:
    """Yield a copy of a judge's folder to change; it replaces ``target`` at the end.

    Card and report of the source are not copied; the record of its training is.
    """
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("README.md", REPORT))
    yield fresh
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
