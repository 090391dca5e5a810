"""Malformed values on every input of every node: success, or one clear sentence, never a hang.

The default profile is the same few hundred jobs every time. By hand, for as long as wanted::

    FUZZ_EXAMPLES=100000 .venv/bin/pytest tests/unit/nodes/test_node_fuzz.py -o log_cli_level=INFO
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.machine import ROOT
from support.node_fuzz import CONSTANTS, EMITTED, Emitted, FuzzGraph, InProcess, inputs_of

LIMIT_S = 60
"""For one job, on cores that others use, too."""
EXAMPLES = "FUZZ_EXAMPLES"
SLOW = ("OneRewardEvaluate", "OneRewardTrain", "OneRewardTrainJudge", "OneRewardJudgeReport")
"""Nodes whose valid jobs take seconds; tried by hand, and refused before the queue in CI."""
log = logging.getLogger("fuzz")

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
CONSTANT = st.sampled_from(sorted(CONSTANTS)).map(lambda name: CONSTANTS[name]) | JSON_VALUES


@pytest.fixture(scope="module")
def runner(nodes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """All nodes of ours, and those that emit any object, with folders of their own."""
    import folder_paths

    base = tmp_path_factory.mktemp("fuzz")
    classes = asyncio.run(nodes.OneRewardExtension().get_node_list())
    classes += asyncio.run(load_test_pack().TestExtension().get_node_list())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("input", "output", "temp"):
            (base / name).mkdir()
            patch.setattr(folder_paths, f"{name}_directory", str(base / name))
        logging.disable(logging.ERROR)  # ComfyUI writes every refusal in ten lines
        yield InProcess({node.GET_SCHEMA().node_id: node for node in classes})
        logging.disable(logging.NOTSET)


def load_test_pack() -> Any:
    folder = ROOT / "tests" / "support" / "test_pack"
    spec = importlib.util.spec_from_file_location(
        "onereward_test_pack", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise in whatever the main thread does after the limit."""

    def stop(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        pytest.fail(f"it hung for {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


COUNTS: Counter[str] = Counter()


@settings(
    max_examples=int(os.environ.get(EXAMPLES, "300")),
    derandomize=EXAMPLES not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_malformed_values_end_in_success_or_one_sentence(runner: InProcess, data: Any):
    names = sorted(name for name in runner.object_info if name.startswith("OneReward"))
    if EXAMPLES not in os.environ:
        names = [name for name in names if name not in SLOW]
    node = data.draw(st.sampled_from(names), label="node")
    inputs = sorted(inputs_of(runner.object_info, node))
    value = CONSTANT | st.sampled_from(EMITTED).map(Emitted)
    some = st.lists(st.sampled_from(inputs), min_size=1, max_size=2, unique=True)
    changes = {name: data.draw(value, label=name) for name in data.draw(some)}
    with time_limit():
        outcome = runner.run(FuzzGraph(runner.object_info).job(node, changes), tuple(inputs))
    COUNTS[outcome.kind] += 1
    assert not outcome.problems, outcome


def test_most_malformed_values_are_refused():
    """What the jobs above came to: the fuzzer would be blind if all of them succeeded."""
    log.info("%s", dict(COUNTS))
    if COUNTS:
        assert COUNTS["refused"] > COUNTS["success"]


def test_valid_jobs_succeed(runner: InProcess):
    """What is changed above is valid before."""
    for node in ("OneRewardFill", "OneRewardScore", "OneRewardStitch", "OneRewardLoadFolder"):
        graph = FuzzGraph(runner.object_info).job(node, {})
        assert runner.run(graph, ()).kind == "success", node
