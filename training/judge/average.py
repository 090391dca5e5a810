"""Average the weights of judges that went on from each other.

`python -m onereward.training.judge.average TARGET JUDGE JUDGE ...`

Judges that went on from one ancestor lie in one valley: their mean often judges a little better
than each, at no cost (M. Wortsman et al., "Model soups", 2022).
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ...reward.judge import JudgeError
from ...reward.report import FILE_NAME as REPORT

_WEIGHTS = "model.safetensors"


def average_judges(folders: Sequence[Path], target: Path) -> None:
    """Write the mean of judges whose weights are in one file each; the rest is the first one's.

    Raises:
        JudgeError: There are no folders, weights are missing, or they are of different shapes.
    """
    if not folders:
        raise JudgeError("there is nothing to average; name the folders of judges")
    total: dict[str, torch.Tensor] = {}
    for folder in folders:
        if not (folder / _WEIGHTS).is_file():
            raise JudgeError(f"{folder} has no {_WEIGHTS}; save the judge in one file first")
        weights = load_file(folder / _WEIGHTS)
        shapes = {name: value.shape for name, value in weights.items()}
        if total and shapes != {name: value.shape for name, value in total.items()}:
            raise JudgeError(
                f"{folder} and {folders[0]} are of different shapes; average judges that went on "
                "from each other"
            )
        for name, value in weights.items():
            total[name] = total.get(name, 0) + value.double()
    kinds = load_file(folders[0] / _WEIGHTS)
    mean = {name: (total[name] / len(folders)).to(value.dtype) for name, value in kinds.items()}
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(folders[0], fresh, ignore=shutil.ignore_patterns("README.md", REPORT))
    save_file(mean, fresh / _WEIGHTS, metadata={"format": "pt"})
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("judges", type=Path, nargs="+")
    arguments = parser.parse_args()
    average_judges(arguments.judges, arguments.target)


if __name__ == "__main__":
    main()
