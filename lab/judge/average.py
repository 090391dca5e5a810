"""Average the weights of judges that were trained one from another.

`python -m onereward.lab.judge.average TARGET JUDGE JUDGE ...`

Judges with a common start lie in one valley of the loss: their mean is often a little more
accurate than each, at no cost (M. Wortsman et al., "Model soups", 2022).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from ...reward.judge import JudgeError
from .copies import WEIGHTS, judge_like, weights_of


def average_judges(folders: Sequence[Path], target: Path) -> None:
    """Write the mean of judges whose weights are in one file each; other files are the first's.

    Raises:
        JudgeError: There are no folders, weights are missing, or they are of different shapes.
    """
    if not folders:
        raise JudgeError("there is nothing to average; name the folders of judges")
    judges = [weights_of(folder) for folder in folders]
    first = judges[0]
    for folder, weights in zip(folders, judges, strict=True):
        if {k: w.shape for k, w in weights.items()} != {k: w.shape for k, w in first.items()}:
            raise JudgeError(
                f"{folder} and {folders[0]} are of different shapes; average judges that were "
                "trained one from another"
            )
    mean = {}
    for name, value in first.items():
        values = torch.stack([weights[name].double() for weights in judges])
        mean[name] = values.mean(0).to(value.dtype)
    with judge_like(folders[0], target) as fresh:
        save_file(mean, fresh / WEIGHTS, metadata={"format": "pt"})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("judges", type=Path, nargs="+")
    arguments = parser.parse_args()
    average_judges(arguments.judges, arguments.target)


if __name__ == "__main__":
    main()
