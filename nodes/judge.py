"""Judge nodes: load a vision-language judge, compare two images, pick the best of many."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io

from ..fill.task import TASKS, Dimension, Task
from ..reward.judge import Judgement
from ..reward.judging import (
    VIEWS,
    View,
    chosen_queries,
    measure_views,
    rank_candidates,
    score_pairs,
)
from ..reward.metrics import quoted
from ..reward.preference import PreferenceSet
from ..reward.qwen_vl import QwenJudge
from ..reward.score import METHODS, RankingConfig
from ..training.charts.tables import Rows, table_image, table_text
from ..training.data.ranking import picked_group, save_ranking
from .comfy_host import ComfyHost
from .dataset import PREFERENCES
from .inputs import judge_input, task_input, text_input
from .paths import work_folders

FROM_LOADER = "From OneReward Load Judge."


class OneRewardScore(io.ComfyNode):
    """Compares two images of the same edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardScore",
            display_name="OneReward Score",
            category="OneReward/judge",
            description="Asks the judge which of two images of the same edit is better, per "
            "dimension. 1 = surely image_a, 0 = surely image_b.",
            inputs=[
                judge_input(FROM_LOADER),
                io.Image.Input("image_a", tooltip="RGB images."),
                io.Image.Input(
                    "image_b",
                    tooltip="RGB images of the same size; as many as in image_a, or one for all.",
                ),
                *_condition_inputs(),
                io.Boolean.Input(
                    "swap",
                    default=True,
                    optional=True,
                    tooltip="Ask in both orders and average, which cancels a preference for a "
                    "position. Off: the reward of training, asked once.",
                ),
                *_view_inputs(),
                _source_input(),
            ],
            outputs=[
                io.Float.Output(
                    "mean",
                    display_name="mean",
                    tooltip="Mean over all dimensions and pairs, 0..1.",
                ),
                io.Image.Output("table", display_name="table", tooltip="All values as an image."),
                io.String.Output(
                    "report", display_name="report", tooltip="All values as JSON, one per pair."
                ),
                io.String.Output(
                    "metrics",
                    display_name="metrics",
                    tooltip="Numbers that need no judge, as JSON: seam step, difference outside "
                    "the mask (with a source), words read right (task text, by OCR).",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        judge: QwenJudge,
        image_a: torch.Tensor,
        image_b: torch.Tensor,
        task: str,
        prompt: str,
        swap: bool = True,
        **rest: Any,
    ) -> io.NodeOutput:
        """Judge every pair."""
        queries = chosen_queries(_task(task), prompt)
        host = ComfyHost(cls.hidden.unique_id)
        view = _view(judge, host, **rest)
        made = score_pairs(judge, (image_a, image_b), queries, host, view, swap)
        rows = [(f"pair {i + 1}", j.probabilities, j.mean()) for i, j in enumerate(made)]
        mean = sum(row[2] for row in rows) / len(rows)
        text = quoted(prompt) if Task(task) is Task.TEXT else ""
        metrics = measure_views({"image_a": image_a, "image_b": image_b}, view, text, host)
        shown = _report(host, rows, [_as_json(j) for j in made], mean)
        return io.NodeOutput(*shown.args, json.dumps(metrics), ui=shown.ui)


class OneRewardPickBest(io.ComfyNode):
    """Ranks candidates of the same edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardPickBest",
            display_name="OneReward Pick Best",
            category="OneReward/judge",
            description="Lets the judge rank the candidates of one edit, best first.",
            inputs=[
                judge_input(FROM_LOADER),
                io.Image.Input(
                    "candidates",
                    tooltip="RGB images of the same edit; num_candidates in OneReward Settings "
                    "makes them.",
                ),
                *_condition_inputs(),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    optional=True,
                    tooltip="knock-out: N - 1 comparisons. round robin: every pair, "
                    "N (N - 1) / 2 comparisons.",
                ),
                *(_weight_input(dimension) for dimension in Dimension),
                *_view_inputs(),
                _source_input(),
                io.String.Input(
                    "save_as",
                    default="",
                    optional=True,
                    tooltip="Name of preference data in output/onereward/preferences that the "
                    "comparisons are added to, with who judged and how sure; empty: not saved.",
                ),
            ],
            outputs=[
                io.Image.Output("best", display_name="best", tooltip="The winner."),
                io.Image.Output(
                    "ranked", display_name="ranked", tooltip="All candidates, best first."
                ),
                io.Image.Output("table", display_name="table", tooltip="The scores as an image."),
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
        save_as: str = "",
        **rest: Any,
    ) -> io.NodeOutput:
        """Rank the candidates."""
        weights = {d: rest.pop(d.value, 1.0) for d in Dimension}
        queries = chosen_queries(_task(task), prompt, weights)
        host, ranking_config = (
            ComfyHost(cls.hidden.unique_id),
            RankingConfig(method=method, weights=weights),
        )
        folder = work_folders.work_folder(PREFERENCES, save_as) if save_as else None
        view = _view(judge, host, **rest)
        kept = None
        if folder is not None:  # before the judge's work, as it refuses what does not belong to it
            data = PreferenceSet(folder)
            surroundings = (view.source, view.mask)
            kept = (data, picked_group(data, Task(task), prompt, candidates, surroundings))
        ranking = rank_candidates(judge, candidates, queries, host, view, ranking_config)
        if kept is not None:
            num = save_ranking(*kept, candidates, ranking, f"judge:{judge.label}")
            host.notify(f"{num} comparisons by {judge.label} saved in {folder}")
        rows = [
            (f"{i + 1}. candidate {n + 1}", {}, ranking.scores[n])
            for i, n in enumerate(ranking.order)
        ]
        ranked = candidates[list(ranking.order)]
        return _report(host, rows, _ranking_json(ranking), ranked[:1], ranked)


def _report(host: ComfyHost, rows: Rows, report: Any, *values: Any) -> io.NodeOutput:
    """Return the values with the table as an image and the report as JSON."""
    text = table_text(rows)
    host.notify(text)
    return io.NodeOutput(
        *values, table_image(rows), json.dumps(report), ui={"onereward": [{"table": text}]}
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


def _view(
    judge: QwenJudge,
    host: ComfyHost,
    view: str = VIEWS[0],
    mask: torch.Tensor | None = None,
    source: torch.Tensor | None = None,
) -> View:
    """Return the view, and say so if the judge was trained with another one."""
    trained = judge.notes.get("view", view)
    if trained != view:
        host.notify(f"this judge was trained with the view {trained!r}; it is asked with {view!r}")
    return View(kind=view, mask=mask, source=source)


def _condition_inputs() -> list[io.Input]:
    return [
        task_input("The edit the images were made by; it decides the dimensions."),
        text_input(
            "prompt",
            "What the images should show; without it text alignment is not judged.",
        ),
    ]


def _weight_input(dimension: Dimension) -> io.Input:
    name = dimension.value
    return io.Float.Input(
        name,
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
            default=VIEWS[0],
            optional=True,
            tooltip="What the judge sees: around the mask shows small edits larger, beside the "
            "source shows what was there before, with the mask in red.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="The edit's mask, 1 = repainted; as large as the images in pixels. For the view "
            "around the mask.",
        ),
    ]


def _source_input() -> io.Input:
    return io.Image.Input(
        "source",
        optional=True,
        tooltip="The image before the edit, RGB, as large as the images in pixels. For the views "
        "beside the source.",
    )
