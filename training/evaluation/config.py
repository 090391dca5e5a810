"""What is evaluated: the fields of the node OneReward Evaluate."""

from __future__ import annotations

from dataclasses import dataclass

from ...fill.json_config import SHARE, JsonConfig, setting

ALL = "all"
MODEL, BASELINE = "model", "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(JsonConfig):
    """Which conditions, how many images of each. The order of the fields is a promise.

    Example: ``EvalConfig(split="dev", num_conditions=32)``.
    """

    split: str = setting(
        ALL,
        "Which conditions: all, or if the model was trained on this folder those it has not "
        "learned from: dev (evaluated in training), test (not used before).",
        options=(ALL, "dev", "test", "train"),
    )
    num_conditions: int = setting(
        0, "Conditions at most, the tasks in turn; 0 = all.", min=0, max=100_000, step=1
    )
    num_seeds: int = setting(1, "Edits of each condition.", min=1, max=100, step=1)
    seed: int = setting(0, "Of the first edit of a condition.", min=0, max=2**31 - 1, step=1)
    best_of: int = setting(
        1,
        "Candidates of the model per edit, of which the judge keeps the best; the baseline always "
        "makes one.",
        min=1,
        max=64,
        step=1,
    )
    margin: float = setting(
        0.05,
        "How far from one half the judge's P(better than the baseline) has to be; nearer counts as "
        "same.",
        min=0.0,
        max=0.5,
        step=0.01,
    )
    max_seam: float = setting(
        0.05,
        "An image is sound if the step across the mask's border is at most this (0..1), and "
        "nothing else is wrong.",
        **SHARE,
    )
    max_tone: float = setting(
        0.1,
        "extend and remove: an image is sound if the colours on both sides of the border differ "
        "by at most this (0..1).",
        **SHARE,
    )
    read_text: bool = setting(
        False,
        "text: read the words, too, which all have to be right in a sound image. Needs the "
        "package rapidocr.",
    )
