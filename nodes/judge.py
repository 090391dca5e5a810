"""Judge nodes: load a vision-language judge, compare two images, pick the best of many."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io

from ..fill.task import Dimension, Task
from ..reward.judge import Judge, Judgement
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
from ..reward.score import METHODS, RankingConfig
from ..training.charts.tables import Rows, table_image, table_text
from ..training.data.ranking import picked_group, save_ranking
from .comfy_host import ComfyHost
from .dataset import PREFERENCES
from .inputs import (
    advanced,
    judge_input,
    output,
    parse_task,
    search_aliases,
    task_input,
    text_input,
)
from .node import OneRewardNode, refusal
from .paths import work_folders

FROM_LOADER = "From OneReward Load Judge."


class OneRewardScore(OneRewardNode):
    """Compares two images of the same edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardScore",
            display_name="OneReward Score",
            category="OneReward/judge",
            description="Compares two images of the same edit with the judge (reward model), per "
            "dimension: P(image_a is better), 0..1.",
            **search_aliases("reward model", "compare images", "image quality", "preference"),
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
            ],
            outputs=[
                output(io.Float, "mean", "Mean over all dimensions and pairs, 0..1."),
                output(io.Image, "table", "All values as an image."),
                output(io.String, "report", "All values as JSON, one per pair."),
                output(
                    io.String,
                    "metrics",
                    "Numbers that need no judge, as JSON: seam step, difference outside "
                    "the mask (with a source), words read right (task text, by OCR).",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        judge: Judge,
        image_a: torch.Tensor,
        image_b: torch.Tensor,
        task: str,
        prompt: str,
        swap: bool = True,
        **values: Any,
    ) -> io.NodeOutput:
        """Judge every pair."""
        queries = chosen_queries(parse_task(task), prompt)
        host = ComfyHost(cls.hidden.unique_id)
        view = _view(judge, host, **values)
        judgements = score_pairs(judge, (image_a, image_b), queries, host, view, swap)
        rows = [(f"pair {i + 1}", j.probabilities, j.mean()) for i, j in enumerate(judgements)]
        mean = sum(row[2] for row in rows) / len(rows)
        text = quoted(prompt) if Task(task) is Task.TEXT else ""
        metrics = measure_views({"image_a": image_a, "image_b": image_b}, view, text, host)
        output = _report(host, rows, [_as_json(j) for j in judgements], mean)
        return io.NodeOutput(*output.args, json.dumps(metrics), ui=output.ui)


class OneRewardPickBest(OneRewardNode):
    """Ranks candidates of the same edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardPickBest",
            display_name="OneReward Pick Best",
            category="OneReward/judge",
            description="Ranks the candidates of one edit with the judge, best first (best of N); "
            "can save the comparisons as preference data.",
            **search_aliases(
                *("best of n", "pick best", "select image", "rank images", "reward model"),
                *("preference data", "挑选"),
            ),
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
                    tooltip="knockout: N - 1 comparisons. round_robin: every pair, N (N - 1) / 2 "
                    "comparisons, scored by how surely others are beaten. win_rate: the same, "
                    "scored by how many are.",
                ),
                *advanced(*(_weight_input(dimension) for dimension in Dimension)),
                *_view_inputs(),
                io.String.Input(
                    "save_as",
                    default="",
                    optional=True,
                    tooltip="Name of preference data in output/onereward/preferences that the "
                    "comparisons are added to, with who judged and how sure; empty: not saved.",
                ),
            ],
            outputs=[
                output(io.Image, "best", "The winner."),
                output(io.Image, "ranked", "All candidates, best first."),
                output(io.Image, "table", "The scores as an image."),
                output(io.String, "report", "Order, scores and every comparison as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, save_as: str | None = None) -> bool:
        """Refuse a bad name of preference data before the queue."""
        return refusal(
            lambda: save_as and work_folders.work_folder(PREFERENCES, save_as, "save_as")
        )

    @classmethod
    def execute(
        cls,
        judge: Judge,
        candidates: torch.Tensor,
        task: str,
        prompt: str,
        method: str = METHODS[0],
        save_as: str = "",
        **values: Any,
    ) -> io.NodeOutput:
        """Rank the candidates."""
        weights = {d: values.pop(d.value, 1.0) for d in Dimension}
        queries = chosen_queries(parse_task(task), prompt, weights)
        host = ComfyHost(cls.hidden.unique_id)
        config = RankingConfig(method=method, weights=weights)
        folder = work_folders.work_folder(PREFERENCES, save_as, "save_as") if save_as else None
        view = _view(judge, host, **values)
        record = None
        if folder is not None:  # before the judge's work: it refuses images that do not fit
            data, originals = PreferenceSet(folder), (view.source, view.mask)
            record = (data, picked_group(data, Task(task), prompt, candidates, originals))
        ranking = rank_candidates(judge, candidates, queries, host, view, config)
        if record is not None:
            num = save_ranking(*record, candidates, ranking, f"judge:{judge.label}")
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


def _view(
    judge: Judge,
    host: ComfyHost,
    view: str = VIEWS[0],
    mask: torch.Tensor | None = None,
    source: torch.Tensor | None = None,
) -> View:
    """Return the view, and notify if the judge was trained with another one."""
    trained = judge.notes.get("view", view)
    if trained != view:
        host.notify(f"this judge was trained with the view {trained!r}; it is asked with {view!r}")
    return View(kind=view, mask=mask, source=source)


def _condition_inputs() -> list[io.Input]:
    return [
        task_input("The edit the images were made by; it decides the dimensions."),
        text_input(
            "prompt",
            "The prompt of the edit; without it text alignment is not judged.",
        ),
    ]


def _weight_input(dimension: Dimension) -> io.Input:
    name = dimension.value
    return io.Float.Input(
        name,
        default=1.0,
        min=0.0,
        max=100.0,
        step=0.05,
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
            tooltip="What the judge is shown: the full image, or a crop around the mask, which "
            "shows small edits larger; with the source next to it, mask in red, or without.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="The edit's mask, 1 = repainted; as large as the images in pixels. For the "
            "views with crop.",
        ),
        io.Image.Input(
            "source",
            optional=True,
            tooltip="The image before the edit, RGB, as large as the images in pixels. For the "
            "views with source.",
        ),
    ]
