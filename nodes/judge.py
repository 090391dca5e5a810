"""Judge nodes: load a vision-language judge, compare two pictures, pick the best of many."""

from __future__ import annotations

import json
import weakref
from collections.abc import Hashable
from typing import Any

import torch
from comfy_api.latest import io

from ..fill.task import TASKS, Dimension, Task
from ..reward.judge import JudgeConfig, Judgement
from ..reward.judging import VIEWS, View, chosen_queries, rank_candidates, score_pairs
from ..reward.qwen_vl import QwenJudge
from ..reward.score import METHODS, Contest
from ..reward.table import Rows, table_picture, table_text
from . import folders
from .host import ComfyHost
from .inputs import config_inputs
from .types import JudgeSocket

_LOADED: weakref.WeakValueDictionary[Hashable, QwenJudge] = weakref.WeakValueDictionary()
"""Judges in use, by settings and files; weak for the same reason as the fill models'."""


class OneRewardLoadJudge(io.ComfyNode):
    """Loads the judge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node; the list is read from the disk at every call."""
        judges = folders.judge_names()
        return io.Schema(
            node_id="OneRewardLoadJudge",
            display_name="OneReward Load Judge",
            category="OneReward",
            description="Chooses the model that judges pictures. Weights are read at first use.",
            inputs=[
                io.Combo.Input(
                    "judge",
                    options=judges,
                    display_name="judge",
                    default=judges[0],
                    tooltip="Folder of a Qwen2.5-VL or Qwen2-VL model in transformers format, in "
                    "models/onereward or models/LLM.",
                ),
                *config_inputs(JudgeConfig, ("precision", "max_pixels")),
            ],
            outputs=[
                JudgeSocket.Output(
                    "loaded_judge", display_name="judge", tooltip="For the nodes that compare."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> Hashable:
        """Change when a file of the folder changes."""
        try:
            return folders.stamp(folders.judge_folder(values["judge"]))
        except FileNotFoundError:
            return ()

    @classmethod
    def execute(
        cls, judge: str, precision: str = "auto", max_pixels: int = 512 * 512
    ) -> io.NodeOutput:
        """Check the folder and return the judge."""
        folder = folders.judge_folder(judge)
        config = JudgeConfig(folder=str(folder), precision=precision, max_pixels=max_pixels)
        key = (config, folders.stamp(folder))
        loaded = _LOADED.get(key)
        if loaded is None:
            loaded = _LOADED[key] = QwenJudge(config, ComfyHost().device)
        return io.NodeOutput(loaded)


class OneRewardScore(io.ComfyNode):
    """Compares two pictures of the same edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardScore",
            display_name="OneReward Score",
            category="OneReward",
            description="Asks the judge which of two pictures of the same edit is better, per "
            "dimension. 1 = surely the first, 0 = surely the second.",
            inputs=[
                _judge_input(),
                io.Image.Input("first", display_name="first", tooltip="RGB pictures."),
                io.Image.Input(
                    "second",
                    display_name="second",
                    tooltip="RGB pictures of the same size; as many as the first, or one for all.",
                ),
                *_condition_inputs(),
                io.Boolean.Input(
                    "swap",
                    display_name="swap",
                    default=True,
                    optional=True,
                    tooltip="Ask in both orders and average, which cancels a preference for a "
                    "position. Off: the reward of training, asked once.",
                ),
                *_view_inputs(),
            ],
            outputs=[
                io.Float.Output(
                    "mean",
                    display_name="mean",
                    tooltip="Mean over all dimensions and pairs, 0..1.",
                ),
                io.Image.Output("table", display_name="table", tooltip="All values as a picture."),
                io.String.Output(
                    "report", display_name="report", tooltip="All values as JSON, one per pair."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        judge: QwenJudge,
        first: torch.Tensor,
        second: torch.Tensor,
        task: str,
        prompt: str,
        swap: bool = True,
        **rest: Any,
    ) -> io.NodeOutput:
        """Judge every pair."""
        queries = chosen_queries(_task(task), prompt)
        host = ComfyHost(cls.hidden.unique_id)
        made = score_pairs(judge, (first, second), queries, host, View(**_view(**rest)), swap)
        rows = [(f"pair {i + 1}", j.probabilities, j.mean()) for i, j in enumerate(made)]
        mean = sum(row[2] for row in rows) / len(rows)
        return _report(host, rows, [_as_json(j) for j in made], mean)


class OneRewardPickBest(io.ComfyNode):
    """Ranks candidates of the same edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardPickBest",
            display_name="OneReward Pick Best",
            category="OneReward",
            description="Lets the judge rank the candidates of one edit, best first.",
            inputs=[
                _judge_input(),
                io.Image.Input(
                    "candidates",
                    display_name="candidates",
                    tooltip="RGB pictures of the same edit; num_candidates in OneReward Settings "
                    "makes them.",
                ),
                *_condition_inputs(),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    display_name="method",
                    default=METHODS[0],
                    optional=True,
                    tooltip="knock-out: N - 1 comparisons. round robin: every pair, "
                    "N (N - 1) / 2 comparisons.",
                ),
                *(_weight_input(dimension) for dimension in Dimension),
                *_view_inputs(),
            ],
            outputs=[
                io.Image.Output("best", display_name="best", tooltip="The winner."),
                io.Image.Output(
                    "ranked", display_name="ranked", tooltip="All candidates, best first."
                ),
                io.Image.Output("table", display_name="table", tooltip="The scores as a picture."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Order, scores and every comparison as JSON.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        judge: QwenJudge,
        candidates: torch.Tensor,
        task: str,
        prompt: str,
        method: str = METHODS[0],
        **rest: Any,
    ) -> io.NodeOutput:
        """Rank the candidates."""
        weights = {d: rest.pop(d.value, 1.0) for d in Dimension}
        queries = chosen_queries(_task(task), prompt, weights)
        host, contest = ComfyHost(cls.hidden.unique_id), Contest(method=method, weights=weights)
        ranking = rank_candidates(judge, candidates, queries, host, View(**_view(**rest)), contest)
        rows = [
            (f"{i + 1}. candidate {n + 1}", {}, ranking.scores[n])
            for i, n in enumerate(ranking.order)
        ]
        ranked = candidates[list(ranking.order)]
        return _report(host, rows, _ranking_json(ranking), ranked[:1], ranked)


def _report(host: ComfyHost, rows: Rows, report: Any, *values: Any) -> io.NodeOutput:
    """Return the values with the table as a picture and the report as JSON."""
    text = table_text(rows)
    host.say(text)
    return io.NodeOutput(
        *values, table_picture(rows), json.dumps(report), ui={"onereward": [{"table": text}]}
    )


def _as_json(judgement: Judgement) -> dict[str, float]:
    return {d.value: p for d, p in judgement.probabilities.items()}


def _ranking_json(ranking: Any) -> dict[str, Any]:
    return {
        "order": ranking.order,
        "scores": ranking.scores,
        "comparisons": [
            {"first": c.first, "second": c.second, **_as_json(c.judgement)}
            for c in ranking.comparisons
        ],
    }


def _task(name: str) -> Task:
    """Return the task; combos are not checked by every version of ComfyUI."""
    if name not in {t.value for t in TASKS}:
        raise ValueError(f"task is {name!r}; choose one of: {', '.join(t.value for t in TASKS)}")
    return Task(name)


def _view(view: str = VIEWS[0], mask: torch.Tensor | None = None) -> dict[str, Any]:
    return {"kind": view, "mask": mask}


def _judge_input() -> io.Input:
    return JudgeSocket.Input("judge", display_name="judge", tooltip="From OneReward Load Judge.")


def _condition_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "task",
            options=[task.value for task in TASKS],
            display_name="task",
            default=Task.FILL.value,
            tooltip="The edit the pictures were made by; it decides the dimensions.",
        ),
        io.String.Input(
            "prompt",
            display_name="prompt",
            multiline=True,
            default="",
            tooltip="What the pictures should show; without it text alignment is not judged.",
        ),
    ]


def _weight_input(dimension: Dimension) -> io.Input:
    name = dimension.value
    return io.Float.Input(
        name,
        display_name=name,
        default=1.0,
        min=0.0,
        max=100.0,
        step=0.1,
        optional=True,
        tooltip=f"Weight of {name.replace('_', ' ')}, where the task is judged on it; 0 leaves it "
        "out.",
    )


def _view_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "view",
            options=list(VIEWS),
            display_name="view",
            default=VIEWS[0],
            optional=True,
            tooltip="What the judge sees; around the mask shows small edits larger.",
        ),
        io.Mask.Input(
            "mask",
            display_name="mask",
            optional=True,
            tooltip="The edit's mask, 1 = repainted; as large as the pictures in px. For the view "
            "around the mask.",
        ),
    ]
