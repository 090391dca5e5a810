"""Cards: what is refused, how texts are filled, and those that come with the package."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from onereward.fill.task import TASKS, Dimension, Task
from onereward.reward.cards.card_format import GENERATE, NUM_IMAGES, CardReading, JudgeCard
from onereward.reward.cards.find_card import BUILT_IN, FOLDER, bundled_cards, find_card
from onereward.reward.cards.readings import read_score
from onereward.reward.judge import JudgeConfig, JudgeError

SMALL: dict[str, Any] = {
    "name": "small",
    "evidence": "none",
    "questions": {"default": {"text": "Is {instruction} good?"}},
}


def card(**values: Any) -> JudgeCard:
    return JudgeCard.from_json(json.dumps({"format": 1, **SMALL, **values}))


def question(**values: Any) -> dict[str, Any]:
    return {"questions": {"default": {"text": "Is {instruction} good?", **values}}}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_bundled_cards_answer_every_cell_and_say_what_was_tried(name: str) -> None:
    bundled = bundled_cards()[name]
    assert JudgeCard.from_json(bundled.to_json()) == bundled
    assert bundled.source.startswith("https://")
    assert bundled.licence
    assert "ried" in bundled.evidence
    for task in Task:
        for dimension in TASKS[task].dimensions:
            assert bundled.question_for(task, dimension)


def test_the_default_card_is_the_built_in_question() -> None:
    bundled = bundled_cards()[BUILT_IN]
    entry = bundled.question_for(Task.FILL, Dimension.STRUCTURE)
    values = {"question": "Is the first image better?"}
    assert bundled.parts_of(entry, values) == ("", "", "Is the first image better?")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": 1}, "unknown settings"),
        ({"reading": {"kind": "guess"}}, "kind is 'guess'; choose one of"),
        ({"reading": {"kinds": "digits"}}, "unknown settings"),
        ({"questions": {}}, "asks nothing"),
        ({"questions": {"default": {"words": "?"}}}, "question 'default'.*unknown settings"),
        ({"questions": {"default": {}}}, "has no text"),
        ({"questions": {"beauty": {"text": "?"}}}, "is about no dimension"),
        ({"questions": {"remove.structure": {"text": "?"}}}, "is about no dimension"),
        ({"questions": {"default": {"text": "{promt}"}}}, r"unknown field \{promt\}"),
        ({"questions": {"text_alignment": {"text": "Good?"}}}, r"lacks the field \{prompt\}"),
        (
            {"questions": {"default": {"text": "<image> good?"}}},
            "1 times <image>, but pair shows 2",
        ),
        ({**question(), "reading": {"kind": "generate"}}, "has no pattern"),
        ({**question(), "reading": {"kind": "head"}}, "has no head"),
        ({**question(), "reading": {"kind": "digits", "low": 1}}, "shows two candidates"),
        (question(pattern="("), "no regular expression"),
        (question(pattern="score"), "no group"),
        ({"reading": {"kind": "digits", "low": 0, "high": 25}}, "only 0 to 9 are one token"),
        ({"reading": {"low": 3, "high": 3}}, "high must be above low"),
        ({"reading": {"first": ["Yes"], "second": [" Yes"]}}, "stands in first and second"),
        ({"reading": {"first": []}}, "need a word each"),
        ({"reading": {"temperature": 0}}, "temperature is 0"),
        ({"images": "three"}, "images is 'three'; choose one of"),
        ({"view": "all"}, "view is 'all'; choose one of"),
        ({"questions": {"default": 5}}, "an object of settings is expected"),
        ({"questions": []}, "an object is expected"),
        ({"reading": []}, "an object of settings is expected"),
        ({"names": "small"}, "a list of entries"),
        ({"system": None}, "text is expected"),
    ],
)
def test_what_cannot_be_asked_or_read_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        card(**values)
    assert len(str(caught.value)) <= 300


def test_a_prompt_is_never_taken_for_a_field_or_an_image() -> None:
    parsed = card(questions={"default": {"text": "A <image> b <image> {prompt} {task}"}})
    entry = parsed.question_for(Task.FILL, Dimension.STRUCTURE)
    parts = parsed.parts_of(entry, {"prompt": "{task} <image>", "task": "fill"})
    assert parts == ("A ", " b ", " {task} <image> fill")


def test_a_question_is_that_of_the_cell_then_of_the_dimension_then_the_default() -> None:
    texts = {"fill.structure": "a", "structure": "b", "default": "c {prompt}"}
    parsed = card(questions={key: {"text": text} for key, text in texts.items()})
    texts_of = [
        parsed.question_for(task, dimension).text
        for task, dimension in (
            (Task.FILL, Dimension.STRUCTURE),
            (Task.EXTEND, Dimension.STRUCTURE),
            (Task.FILL, Dimension.AESTHETICS),
        )
    ]
    assert texts_of == ["a", "b", "c {prompt}"]
    with pytest.raises(ValueError, match="no question about aesthetics of fill"):
        card(questions={"structure": {"text": "b"}}).question_for(Task.FILL, Dimension.AESTHETICS)


def config(card: str = "", adapter: str = "") -> JudgeConfig:
    return JudgeConfig(folder="x", card=card, adapter=adapter)


@pytest.mark.parametrize(
    ("path", "family", "name"),
    [
        ("EditScore-Qwen3-VL-8B-Instruct", "qwen3_vl", "EditScore"),
        ("models--VisionXLab--FIRM-Edit-8B/snapshots/0a1b", "qwen3_vl", "FIRM-Edit"),
        ("UnifiedReward-Edit-qwen3vl-8b", "qwen3_vl", "UnifiedReward-Edit"),
        ("RationalRewards-8B-Edit", "qwen3_vl", "RationalRewards-Edit"),
        ("EditReward-Qwen2.5-VL-7B", "qwen2_5_vl", "EditReward"),
        ("Qwen3-VL-8B-Instruct", "qwen3_vl", "OneReward"),
    ],
)
def test_published_checkpoints_are_known_by_their_names(
    tmp_path: Path, path: str, family: str, name: str
) -> None:
    assert find_card(config(), tmp_path / path, family).name == name


def test_an_adapter_names_its_card_and_one_trained_here_has_the_built_in(tmp_path: Path) -> None:
    adapter = tmp_path / "EditScore-Qwen3-VL-4B-Instruct"
    adapter.mkdir()
    base = tmp_path / "Qwen3-VL-4B-Instruct"
    assert find_card(config(adapter=str(adapter)), base, "qwen3_vl").name == "EditScore"
    (adapter / "onereward.json").write_text("{}")
    assert find_card(config(adapter=str(adapter)), base, "qwen3_vl").name == "OneReward"


def test_a_card_beside_the_checkpoint_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "EditScore-Qwen3-VL-4B-Instruct"
    folder.mkdir()
    (folder / "judge_card.json").write_text(json.dumps(SMALL))
    assert find_card(config(), folder, "qwen3_vl").name == "small"
    assert find_card(config(card="editscore"), folder, "qwen3_vl").name == "EditScore"
    (folder / "judge_card.json").write_text("{")
    with pytest.raises(ValueError, match=r"judge_card\.json"):
        find_card(config(), folder, "qwen3_vl")


def test_a_card_for_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"is for qwen2_5_vl, but .* is qwen3_vl"):
        find_card(config(card="editreward"), tmp_path / "x", "qwen3_vl")
    with pytest.raises(FileNotFoundError, match=r"no card 'edit-score'; name a \.json file"):
        find_card(config(card="edit-score"), tmp_path / "x", "qwen3_vl")


ANSWERS = {
    # As the published evaluation code expects answers, and what it reads of them.
    "editscore": (
        '{\n"reasoning" : "The score is high.",\n"score" : [20, 18.5]\n}',
        {"text_alignment": 20.0, "consistency": 18.5, "structure": 20.0, "aesthetics": 18.5},
    ),
    "firm_edit": (
        '{\n"reasoning" : "One change.",\n"score" : [4]\n}',
        {"text_alignment": 4.0, "consistency": 4.0},
    ),
    "rationalrewards_edit": (
        "# Detailed Judgement\n1. Text Faithfulness:\n## Justification: score 1 of 4.\n"
        "## Score: 3.5\n2. Image Faithfulness:\n## Justification: ok\n## Score: 2.0\n"
        "3. Physical and Visual Quality:\n## Justification: ok\n## Score: 3.8\n"
        "4. Text Rendering:\n## Justification: none\n## Score: N/A\n# Summary: fine",
        {"text_alignment": 3.5, "consistency": 2.0, "structure": 3.8, "aesthetics": 3.8},
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_patterns_find_the_scores_of_the_published_answers(name: str) -> None:
    bundled, (text, scores) = bundled_cards()[name], ANSWERS[name]
    assert bundled.reading.kind == GENERATE
    for dimension, score in scores.items():
        entry = bundled.question_for(Task.FILL, Dimension(dimension))
        scale = bundled.reading.low, bundled.reading.high
        assert read_score(text, entry.pattern, *scale) == score


def test_bundled_questions_have_their_images_and_no_other_marker() -> None:
    for bundled in bundled_cards().values():
        for entry in bundled.questions.values():
            text = entry.text or bundled.text
            assert text.count("<image>") in (0, NUM_IMAGES[bundled.images_of(entry)])
            assert not re.findall(
                r"<\w+>|\{\{", text.replace("<image>", "").replace("<YOUR_REASONING>", "")
            )


def test_readings_are_checked_alone() -> None:
    assert CardReading.from_values({"kind": "digits", "low": 1, "high": 5}).high == 5
