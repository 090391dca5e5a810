"""Malformed values for every input of every node, and what becomes of a job with them."""

from __future__ import annotations

import asyncio
import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from support.client import Graph
from support.edits import BUNDLED, FROM_MODEL, TOY_PREFERENCES, TOY_TEST
from support.graph import GraphBuilder, Link, output

MAX_SENTENCE = 300
"""Characters of a refusal."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
DEEP: Any = None
for _ in range(100):
    DEEP = {"a": DEEP}

CONSTANTS: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "a negative number": -1,
    "a fraction": 0.3,
    "a giant whole number": 10**400,
    "a giant number": 1e308,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "an empty text": "",
    "a blank text": " \n\t",
    "text": "abc",
    "a long text": "a" * 10_000,
    "a very long text": "ab " * 400_000,
    "a long prompt": "ab " * 60_000,
    "100 wide characters": "\u6587" * 100,
    "100 emoji": "\U0001f600" * 100,
    "NUL": "a\0b",
    "a lone surrogate": "a\ud800b",
    "right to left": "\u202egnp.exe",
    "a path to the root": "/etc/passwd",
    "a path up": "../../../../etc",
    "a device": "/dev/zero",
    "the folder itself": ".",
    "the folder above": "..",
    "a home": "~root",
    "a Windows path": "C:\\Windows\\x",
    "many slashes": "a/" * 3000,
    "a format": "%s%n{0}{}",
    "a pattern": "*[",
    "JSON": '{"a": [1,',
    "an empty list": [],
    "a list of one": ["x"],
    "a list of three": [1, 2, 3],
    "a link to nowhere": ["999", 0],
    "a link to no output": ["1", 99],
    "a link of other types": [{}, []],
    "an empty object": {},
    "an object": {"a": 1},
    "a list as value": {"__value__": [1, 2]},
    "an object as value": {"__value__": {"a": 1}},
    "null as value": {"__value__": None},
    "a deep object": DEEP,
}
"""JSON values by name."""
_VALUES = Path(__file__).with_name("test_pack") / "values.py"
EMITTED = sorted(runpy.run_path(str(_VALUES))["VALUES"])
"""What the test pack can put on a socket; its package itself imports ComfyUI."""


@dataclass(frozen=True)
class Emitted:
    """What a node of the test pack puts on the socket. Example: ``Emitted("None")``."""

    kind: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job.

    Example: ``Outcome(kind="refused", text="mask is empty; paint the area to repaint")``.
    """

    kind: str
    """success, refused (by a sentence of ours), comfyui (by ComfyUI itself) or opaque."""
    text: str = ""
    problems: list[str] = field(default_factory=list)
    """What is wrong with the text."""


_OPAQUE = re.compile(
    r"object has no attribute|\[Errno|not subscriptable|not iterable|KeyError|unexpected keyword"
    r"|positional argument|line \d+ column|char \d+|codec can't|not supported between|NoneType"
    r"|<class |object at 0x|unhashable|recursion|must be str|expected str|should not happen"
    r"|tensor\(|Traceback|dtype=|size of tensor|out of bounds|embedded null|Expecting"
)


_OTHER_NAMES = ("folder", "first", "second", "server", "label")
"""What sentences call some inputs: images is a folder; image_a and image_b are first and second."""


def problems_of(text: str, names: tuple[str, ...] = ()) -> list[str]:
    """Return what keeps a text from being one clear sentence that names an input."""
    problems = []
    if match := _OPAQUE.search(text):
        problems.append(f"opaque: {match[0]}")
    if len(text) > MAX_SENTENCE:
        problems.append(f"{len(text)} characters")
    if "\n" in text:
        problems.append("several lines")
    if not text:
        problems.append("empty")
    if names and not any(re.search(rf"\b{name}", text) for name in (*names, *_OTHER_NAMES)):
        problems.append("names no input")
    return problems


def small_values(node: str) -> dict[str, Any]:
    """Return values that keep a valid job of a node short."""
    return {
        "OneRewardLoadModel": {"model": BUNDLED, "transformer": FROM_MODEL},
        "OneRewardLoadAdapter": {"adapter": f"{BUNDLED}/fixed"},
        "OneRewardFill": {"prompt": "a red circle"},
        "OneRewardExtend": {"left": 16, "right": 0},
        "OneRewardText": {"text": "AB"},
        "OneRewardSettings": {"steps": 1},
        "OneRewardNativeInputs": {"prompt": "a red circle", "recipe": "bundled"},
        "OneRewardLoadFolder": {"folder": "scenes [bundled]", "count": 2, "needs_mask": False},
        "OneRewardEditDataset": {"images": TOY_TEST},
        "OneRewardLoadPreferences": {"folder": TOY_PREFERENCES},
        "OneRewardGenerateCandidates": {
            **{"num_candidates": 2, "max_conditions": 1, "steps_min": 1, "steps_max": 1},
        },
        "OneRewardTrainJudge": {"steps": 1, "eval_pairs": 2, "batch_size": 1},
        "OneRewardTrain": {"steps": 1, "batch_size": 1, "min_judge_accuracy": 0.0},
        "OneRewardTrainSettings": {"sampling_steps": 2, "eval_conditions": 1},
        "OneRewardSaveAdapter": {"overwrite": True},
        "OneRewardEvaluate": {"num_conditions": 1, "best_of": 1},
        "OneRewardRemoteJudge": {"model": "x", "retries": 0, "timeout": 1.0},
        "OneRewardJudgeReport": {"max_pairs": 2},
    }.get(node, {})


class FuzzGraph(GraphBuilder):
    """A short valid job for one node, whose inputs can be replaced.

    Example: ``FuzzGraph(object_info).job("OneRewardFill", {"prompt": None})``.

    Args:
        object_info: The schemas of all nodes, as the server answers to ``/object_info``.
    """

    def __init__(self, object_info: Mapping[str, Any]) -> None:
        super().__init__()
        self._info = object_info
        self._links: dict[str, Link] = {}

    def job(self, node: str, changes: Mapping[str, Any]) -> Graph:
        """Return the graph of a node with some of its inputs changed."""
        inputs = self._valid_inputs(node)
        for name, value in changes.items():
            if isinstance(value, Emitted):
                inputs[name] = self.add("TestValue", kind=value.kind)
            else:
                inputs[name] = value
        link = self.add(node, **inputs)
        for index, _ in enumerate(self._info[node]["output"][:1]):
            self.add("TestSink", value=output(link, index))
        return self.graph

    def _valid_inputs(self, node: str) -> dict[str, Any]:
        inputs: dict[str, Any] = {}
        for name, (kind, *options) in self._info[node]["input"].get("required", {}).items():
            values = options[0] if options else {}
            if isinstance(kind, list) or kind == "COMBO":
                choices = kind if isinstance(kind, list) else values["options"]
                inputs[name] = values.get("default", choices[0])
            elif kind in WIDGETS:
                inputs[name] = values.get("default", "")
            else:
                inputs[name] = self._source(kind)
        kinds = inputs_of(self._info, node)
        if "settings" in kinds:
            inputs["settings"] = self._source(kinds["settings"])
        for name, source in OTHER_SOURCES.get(node, {}).items():
            is_node = source.startswith("OneReward")
            inputs[name] = self._add_node(source) if is_node else self._source(source)
        return inputs | small_values(node)

    def _source(self, kind: str) -> Link:
        """Return a link to a node that makes what a socket takes."""
        if kind not in self._links:
            self._links[kind] = self._add_source(kind)
        return self._links[kind]

    def _add_source(self, kind: str) -> Link:
        if kind in ("IMAGE", "MASK"):
            return self.add("TestValue", kind=kind.lower())
        if kind in NATIVE:
            return output(self._source("native"), NATIVE.index(kind))
        return output(self._add_node(SOURCES[kind]), 3 * (kind == "ONEREWARD_STITCH"))

    def _add_node(self, node: str) -> Link:
        return self.add(node, **self._valid_inputs(node))


NATIVE = ("MODEL", "CLIP", "VAE")
SOURCES = {
    "native": "OneRewardToNative",
    "ONEREWARD_FILL_MODEL": "OneRewardLoadModel",
    "ONEREWARD_SETTINGS": "OneRewardSettings",
    "ONEREWARD_JUDGE": "OneRewardLoadJudge",
    "ONEREWARD_DATASET": "OneRewardEditDataset",
    "ONEREWARD_PREFERENCES": "OneRewardLoadPreferences",
    "ONEREWARD_STITCH": "OneRewardNativeInputs",
    "ONEREWARD_TRAIN_SETTINGS": "OneRewardTrainSettings",
}
"""The node that makes what fits a socket: its first output, the fourth for a stitch."""
OTHER_SOURCES = {
    "OneRewardLabelPreferences": {
        "preferences": "OneRewardGenerateCandidates",
        "judge": "ONEREWARD_JUDGE",
    },
    "OneRewardNativeInputs": {"mask": "MASK"},
    "OneRewardSaveAdapter": {"model": "OneRewardLoadAdapter"},
    "OneRewardTrain": {"judge": "ONEREWARD_JUDGE"},
}
"""What some nodes need besides: a node, or whatever fits a socket."""


def inputs_of(object_info: Mapping[str, Any], node: str) -> dict[str, str]:
    """Return the type of each input of a node, by name."""
    groups = (object_info[node]["input"].get(group, {}) for group in ("required", "optional"))
    kinds = {name: entry[0] for group in groups for name, entry in group.items()}
    return {n: "COMBO" if isinstance(k, list) else k for n, k in kinds.items()}


class InProcess:
    """ComfyUI's own check and executor in this process, with our nodes and the test pack.

    Example: ``InProcess(classes).run(graph, {"prompt"})``.

    Args:
        classes: Node classes by id.
    """

    def __init__(self, classes: Mapping[str, Any]) -> None:
        import execution

        import nodes as comfy_nodes

        comfy_nodes.NODE_CLASS_MAPPINGS.update(classes)
        server: Any = _NoServer()
        self._execution = execution
        self._executor = execution.PromptExecutor(
            server,
            cache_type=execution.CacheType.CLASSIC,  # pyright: ignore[reportArgumentType]
            cache_args={"lru": 0, "ram": 16.0, "ram_inactive": 16.0},
        )
        self.object_info = {name: _info(node) for name, node in classes.items()}

    def run(self, graph: Graph, names: tuple[str, ...]) -> Outcome:
        """Check and execute a graph; a refusal must name one of the inputs."""
        valid = asyncio.run(self._execution.validate_prompt("p", graph, None))
        if not valid[0] or valid[3]:
            return refusal_outcome({"error": valid[1] or {}, "node_errors": valid[3]}, names)
        self._executor.execute(graph, "p", {}, valid[2])
        errors = [m for event, m in self._executor.status_messages if event == "execution_error"]
        if not errors:
            return Outcome(kind="success")
        return error_outcome(errors[0], names)


def error_outcome(error: Mapping[str, Any], names: tuple[str, ...]) -> Outcome:
    """Return the outcome of a job that failed while it ran."""
    if not error["node_type"].startswith("OneReward"):
        return Outcome(kind="comfyui", text=error["exception_message"])
    text = error["exception_message"].strip()
    problems = problems_of(text, names)
    return Outcome(kind="opaque" if problems else "refused", text=text, problems=problems)


def refusal_outcome(answer: Mapping[str, Any], names: tuple[str, ...]) -> Outcome:
    """Return the outcome of a job that the server did not queue."""
    errors = [e for node in answer["node_errors"].values() for e in node["errors"]]
    refusals = [e for e in errors if is_ours(e)]
    if not refusals:
        return Outcome(kind="comfyui", text=str([e.get("details") for e in errors])[:300])
    text = refusals[0]["details"]
    problems = problems_of(text, names)
    problems += [f"{len(refusals)} errors"] if len(refusals) > 1 else []
    return Outcome(kind="opaque" if problems else "refused", text=text, problems=problems)


def is_ours(error: Mapping[str, Any]) -> bool:
    """Tell what a node of ours refused from what ComfyUI refused before it asked the node."""
    if error["type"] == "custom_validation_failed":
        return True
    lines = error.get("extra_info", {}).get("traceback") or [""]
    return error["type"].startswith("exception_during") and "execution.py" not in lines[-1]


def _info(node: Any) -> dict[str, Any]:
    inputs = node.INPUT_TYPES()
    return {"input": inputs, "output": node.GET_SCHEMA().outputs, "output_node": node.OUTPUT_NODE}


class _NoServer:
    """A server whom nobody watches."""

    client_id = None
    last_node_id = None
    last_prompt_id = None
    sockets_metadata: ClassVar[dict[str, Any]] = {}

    def send_sync(self, *message: Any) -> None:
        """Send nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None
