"""``python -m faults.fork_server FOLDER``: does trials; a line of JSON in, a line out.

A process of its own, so that it has no threads and nothing of a test session in it when it forks::

    {"writer": "train", "kinds": ["kill"], "limit": 5, "seed": 1}
    {"num_operations": 80, "num_trials": 5, "bad": [], "order": []}
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from .file_shim import FileShim


def main() -> None:
    """Answer requests until the input ends."""
    shim = FileShim.install()
    os.environ["HF_HUB_OFFLINE"] = "1"
    answers, sys.stdout = sys.stdout, sys.stderr
    import conftest  # loads the package

    del conftest
    import torch

    torch.set_num_threads(1)
    from .fault_writers import PREPARED, WRITERS, Inputs, do_nothing
    from .trials import Trials, Writer

    spool = Path(sys.argv[1])
    inputs = Inputs(spool / "inputs")
    inputs.folder.mkdir(parents=True, exist_ok=True)
    ready: dict[str, Trials] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["writer"]
        started = time.monotonic()
        if name not in ready:
            write, prepare = WRITERS[name], PREPARED.get(name, do_nothing)
            writer = Writer(name, partial(write, inputs), partial(prepare, inputs))
            ready[name] = Trials(shim, writer, spool / name)
        answer = _answer(ready[name], request)
        answer["seconds"] = round(time.monotonic() - started, 1)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(trials: Any, request: dict[str, Any]) -> dict[str, Any]:
    from .trials import order_faults

    draw = random.Random(f"{request['seed']}|{request['writer']}")
    faults = trials.faults(tuple(request["kinds"]))
    sequences = [(fault,) for fault in faults]
    if request.get("pairs"):
        sequences = [tuple(draw.sample(faults, 2)) for _ in range(request["pairs"])]
    limit = request.get("limit") or len(sequences)
    drawn_sequences = sequences if limit >= len(sequences) else draw.sample(sequences, limit)
    deadline = time.monotonic() + request.get("max_seconds", 1e9)
    results = []
    for sequence in drawn_sequences:
        if time.monotonic() > deadline:
            break
        results.append(trials.run(*sequence))
    return {
        "num_operations": len(trials.log),
        "log": trials.log_texts,
        "num_trials": len(results),
        "num_identical": sum(not trial.different for trial in results),
        "num_leftover": sum(bool(trial.leftover) for trial in results),
        "bad": [trial.text() for trial in results if not trial.is_good],
        "order": order_faults(trials.log, trials.log_root),
    }


if __name__ == "__main__":
    main()
