"""What the commands that compute have in common: threads, processes, Ctrl-C, one-line errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training.runs.distributed import Distributed
    from ..training.runs.hosts import TrainingHost

STOPPED = 130
"""Exit code of a run that the user stopped, as shells have it."""


def run_headless(
    threads: int, folder: str, job: Callable[[TrainingHost, Distributed], str | None]
) -> int:
    """Run a job in this process, or its share of it under ``accelerate launch``.

    Args:
        threads: CPU threads.
        folder: Where the work is; named when the user stops it.
        job: Does the work; the first process writes what it returns to standard output.

    Returns:
        0; 1 for a judge that cannot answer, a library that is missing, too little memory, or a loss
        that is not finite; 130 if the user stopped.
    """
    import torch

    from ..fill.memory.plan import NotEnoughMemory
    from ..reward.judge import JudgeError
    from ..training.runs.distributed import Distributed
    from ..training.runs.hosts import Stopped, TrainingHost, stopped_by_signals
    from ..training.runs.loop import TRAINING_ERRORS

    if threads < 1:
        raise ValueError(f"threads is {threads}, but at least 1 is expected; correct the config")
    # The process.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    processes = Distributed()
    host = TrainingHost(processes.device)
    # The job, and how it ends.
    try:
        with stopped_by_signals(host.stop):
            text = job(host, processes)
    except Stopped:
        sys.stderr.write(f"onereward: stopped; the same command goes on in {folder}\n")
        return STOPPED
    except (JudgeError, ImportError, MemoryError, NotEnoughMemory, *TRAINING_ERRORS) as error:
        sys.stderr.write(f"onereward: {error}\n")
        return 1
    if text and processes.is_main:
        sys.stdout.write(text.rstrip("\n") + "\n")
    return 0
