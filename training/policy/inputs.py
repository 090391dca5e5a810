"""What a run learns from, as it was when the run began: one that goes on must find the same.

Settings only name folders; these digests say whether what is in them has changed. With a judge that
was trained further in between, a run would be half one thing and half another, and its record would
name neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...fill.fingerprint import fingerprint
from ...fill.io.file_digest import fingerprint_files
from ...fill.models import FillModels
from ...reward.qwen_vl import QwenJudge
from ..data.conditions import FILE_NAME
from ..runs.files import write_text
from .config import PolicyTrainConfig
from .reward_cells import RewardCells

INPUTS = "inputs.json"
"""In the run folder: name of what the run began with, to its digest."""


def digests_of(
    config: PolicyTrainConfig, models: FillModels, judges: Sequence[QwenJudge], cells: RewardCells
) -> dict[str, str]:
    """Return a digest of everything that a run's result follows from and its config only names.

    Of the conditions their list counts, not the images it names; of the judges' reports, which
    cells pass the gate.

    Args:
        config: The run's.
        models: The fill model with its adapters.
        judges: All judges, those that monitor too.
        gate: What takes part in the loss.

    Raises:
        OSError: A file is gone.
    """
    names = sorted(f"{task.value}.{dimension.value}" for task, dimension in cells.cells)
    conditions = Path(config.dataset_folder)
    return {
        "the fill model": fingerprint(models),
        f"the list of conditions in {conditions}": fingerprint_files([conditions / FILE_NAME]),
        "what the judges' reports let pass the gate": fingerprint_files([], *names),
        **{
            f"judge {number} ({judge.label})": fingerprint_files(judge.files)
            for number, judge in enumerate(judges, 1)
        },
    }


def keep_inputs(run: Path, found: Mapping[str, str]) -> None:
    """Write down what a run begins with."""
    write_text(run / INPUTS, json.dumps(dict(found), indent=2) + "\n")


def check_inputs(run: Path, found: Mapping[str, str]) -> None:
    """Let a run go on with what it began with, and with nothing else.

    Runs that wrote nothing down go on with anything.

    Raises:
        ValueError: Something has changed; names it.
    """
    path = run / INPUTS
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else found
    changed = [name for name in before if before[name] != found.get(name)]
    if changed:
        raise ValueError(
            f"since {run} was begun, {' and '.join(changed)} changed; choose another run folder "
            "(another name on the node), or put the old files back"
        )
