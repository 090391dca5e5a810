"""Reproduce the paper's findings in the small, or go on with it.

`python -m onereward.lab.reproduce CONFIG [--photos FOLDER] [--again]`

Stages run side by side, each in a process of its own, until everything is done or the time is up;
the same command goes on from there. `--again` measures the finished models once more and compares
the numbers.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import torch

from ...training.runs.hosts import Stopped, TrainingHost, stopped_by_signals
from .config import ReproduceConfig
from .judge_stages import judge_measurements, judge_stages
from .measurements import measurement_stages
from .photos import photo_stage, reset_photo_stage
from .policies import policy_stages
from .report import measured_numbers, write_report
from .stage import Context, Stage, commit, ready

log = logging.getLogger("onereward.training")

POLL_S = 0.5
UNFINISHED, DIFFERENT = 3, 4
"""Exit codes: out of time; measured again, something is different."""


def all_stages(config: ReproduceConfig) -> list[Stage]:
    """Return every stage, in an order in which they can run."""
    return [
        *judge_stages(config),
        *policy_stages(config),
        *judge_measurements(),
        *measurement_stages(config),
        photo_stage(),
    ]


def reproduce(context: Context) -> Path | None:
    """Do all stages that are not done and write the report; None if the time was up before.

    Raises:
        ValueError: The run's folder holds another plan's work.
        RuntimeError: A stage failed; says where it says why.
    """
    config = context.config
    config.claim_folder()
    commit()
    if context.photos:
        reset_photo_stage(context)
    end = time.monotonic() + 3600 * config.hours
    stages = all_stages(config)
    run = _run_side_by_side if config.workers else _run_one_by_one
    return write_report(context, stages) if run(stages, context, end) else None


def measure_again(context: Context) -> list[str]:
    """Measure the finished models once more; return the sections whose numbers are different."""
    again = replace(context, evaluation=f"{context.evaluation}-again")
    stages = all_stages(context.config)
    shutil.rmtree(again.folder / again.evaluation, ignore_errors=True)
    for stage in stages:
        if stage.is_measurement:
            log.info("%s, again", stage.name)
            while not stage.work(again):
                context.host.check_cancelled()
    first, second = measured_numbers(context), measured_numbers(again)
    return [name for name, numbers in first.items() if second[name] != numbers]


def _run_one_by_one(stages: Sequence[Stage], context: Context, end: float) -> bool:
    while waiting := ready(stages, context.config):
        if time.monotonic() > end:
            return False
        log.info("%s", waiting[0].name)
        waiting[0].run(context)
    return True


def _run_side_by_side(stages: Sequence[Stage], context: Context, end: float) -> bool:
    _import_slow_libraries()
    running: dict[str, BaseProcess] = {}
    try:
        while True:
            _collect_finished(running, context)
            context.host.check_cancelled()
            waiting = [s for s in ready(stages, context.config) if s.name not in running]
            is_late = time.monotonic() > end
            if not running and (is_late or not waiting):
                return not waiting
            if not is_late:
                for stage in waiting[: context.config.workers - len(running)]:
                    log.info("%s: begins", stage.name)
                    running[stage.name] = _start(stage, context)
            time.sleep(POLL_S)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _collect_finished(running: dict[str, BaseProcess], context: Context) -> None:
    for name in [name for name, process in running.items() if process.exitcode is not None]:
        code = running.pop(name).exitcode
        if code not in (0, UNFINISHED):
            raise RuntimeError(
                f"stage {name} failed with exit code {code}; {_log_of(context, name)} says why; "
                "the same command goes on"
            )
        log.info("%s: %s", name, "done" if code == 0 else "goes on")


def _import_slow_libraries() -> None:
    """Import once what every stage would import again; nothing computes before the fork."""
    from diffusers import FluxFillPipeline
    from peft import LoraConfig
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    del FluxFillPipeline, LoraConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration


def _start(stage: Stage, context: Context) -> BaseProcess:
    path = _log_of(context, stage.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_work, args=(stage, context, path))
    process.start()
    return process


def _work(stage: Stage, context: Context, output: Path) -> None:
    """Do a stage in a process of its own, with everything that it says in its own log.

    A stop ends it at once, wherever it is: not all stages ask a host, and what they write is whole
    or not there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the process that started it to decide
    signal.signal(signal.SIGTERM, _stop_now)
    with output.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.exit(0 if stage.run(context) else UNFINISHED)


def _stop_now(signum: int, frame: FrameType | None) -> None:
    raise Stopped


def _log_of(context: Context, name: str) -> Path:
    return context.folder / "logs" / f"{name}.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--photos", type=Path, help="folder of photographs for section 7")
    parser.add_argument("--again", action="store_true", help="measure again and compare")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    config = ReproduceConfig.load(parsed.config)
    context = Context(config=config, host=TrainingHost("cpu"), photos=parsed.photos)
    with stopped_by_signals(context.host.stop):
        try:
            if parsed.again:
                different = measure_again(context)
                sys.stdout.write(f"different: {', '.join(different) or 'nothing'}\n")
                return DIFFERENT if different else 0
            path = reproduce(context)
        except Stopped:
            sys.stderr.write("stopped; the same command goes on\n")
            return 130
        except (RuntimeError, ValueError, OSError) as error:
            sys.stderr.write(f"{error}\n")
            return 1
    sys.stdout.write(f"{path or 'the time is up; the same command goes on'}\n")
    return 0 if path else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
