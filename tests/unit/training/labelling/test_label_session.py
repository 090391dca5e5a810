"""Labelling a folder without a server: what keys write, what comes next, what is undone."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onereward.fill.task import Dimension, Task
from onereward.reward.preference import PAIRS, PreferenceSet
from onereward.training.data.label import LABELS, label
from onereward.training.data.labellers import MetricLabeller
from onereward.training.data.ranking import make_pair
from onereward.training.labelling.label_session import LabelSession
from support.candidate_folders import label_by_chance, make_candidates, press
from support.recording_host import RecordingHost

FOUR = ("text_alignment", "consistency", "structure", "aesthetics")
KEY_FILE = "labels/Ada.jsonl"


def pairs(folder: Path, name: str = "Ada") -> list[tuple[str, str, str]]:
    data = PreferenceSet(folder).pairs()
    own_pairs = [pair for pair in data if pair.judged_by == f"human:{name}"]
    return [(p.winner_file_name, p.loser_file_name, p.dimension.value) for p in own_pairs]


def contents(folder: Path) -> dict[str, bytes]:
    names = (PAIRS, KEY_FILE)
    return {n: (folder / n).read_bytes() for n in names if (folder / n).exists()}


def test_one_key_answers_two_candidates(tmp_path: Path):
    data = make_candidates(tmp_path)
    session = LabelSession(tmp_path)
    view = session.view("Ada")
    assert view["progress"] == {"answered": 0, "questions": 12, "groups": 3}
    assert view["question"]["sentence"] == "Which one shows best what the prompt says?"
    for dimension in FOUR:
        assert view["question"]["dimension"] == dimension
        best = view["question"]["candidates"][1]
        view = press(session, view, 1)
        (pair,) = [p for p in data.pairs() if p.dimension.value == dimension]
        group = data.groups()[0]
        ends = (best, 1 - best)
        assert pair == make_pair(group, Dimension(dimension), ends, "human:Ada")
    assert view["question"]["group"] != session.view("Ben")["question"]["group"]
    assert view["progress"]["answered"] == 4


def test_four_candidates_take_best_and_worst_and_a_reload_between(tmp_path: Path):
    make_candidates(tmp_path, (4,))
    view = LabelSession(tmp_path).view("Ada")
    order = view["question"]["candidates"]
    view = press(LabelSession(tmp_path), view, 2)
    assert pairs(tmp_path) == []
    view = LabelSession(tmp_path).view("Ada")  # as after a reload, by another server
    question = view["question"]
    assert (question["stage"], question["best"], question["candidates"]) == (
        "worst",
        order[2],
        order,
    )
    with pytest.raises(ValueError, match="cannot be the worst"):
        press(LabelSession(tmp_path), view, 2)
    press(LabelSession(tmp_path), view, 0)
    prefix = "images/scene-0/model"
    names = (f"{prefix}/{order[2]}.png", f"{prefix}/{order[0]}.png")
    assert pairs(tmp_path) == [(*names, "text_alignment")]


@pytest.mark.parametrize("is_reloaded", [False, True])
def test_undo_takes_back_exactly_what_each_key_wrote(tmp_path: Path, is_reloaded: bool):
    make_candidates(tmp_path, (4, 2))
    session = LabelSession(tmp_path)
    view, before = session.view("Ada"), []
    for choice in (1, 0, "repeat", "tie", 2, "tie", 0, 1):
        before.append((contents(tmp_path), view["question"]))
        view = press(session, view, choice)
    while before:
        files, question = before.pop()
        session = LabelSession(tmp_path) if is_reloaded else session
        view = session.undo("Ada")
        assert {n: c for n, c in contents(tmp_path).items() if c} == {
            n: c for n, c in files.items() if c
        }
        assert view["question"] == question
    assert session.undo("Ada")["note"] == "there is nothing to undo"


def test_hardly_any_difference_makes_no_pair_and_is_not_asked_again(tmp_path: Path):
    make_candidates(tmp_path, (3,))
    session = LabelSession(tmp_path)
    for _ in FOUR:
        press(session, LabelSession(tmp_path).view("Ada"), "tie")
    assert session.view("Ada")["question"] is None
    assert LabelSession(tmp_path).view("Ada")["question"] is None
    assert pairs(tmp_path) == []


def test_the_same_answer_for_the_next_dimension(tmp_path: Path):
    make_candidates(tmp_path, (4,))
    session = LabelSession(tmp_path)
    view = session.view("Ada")
    assert not view["question"]["can_repeat"]
    with pytest.raises(ValueError, match="no answer to these candidates yet"):
        press(session, view, "repeat")
    view = press(session, press(session, view, 3), 1)
    view = press(session, view, "repeat")
    (first, second) = pairs(tmp_path)
    assert first[:2] == second[:2]
    assert second[2] == "consistency"


def test_people_have_labels_and_an_order_of_their_own(tmp_path: Path):
    make_candidates(tmp_path, (8, 8))
    session = LabelSession(tmp_path)
    ada, ben = session.view("Ada"), session.view("Ben")
    assert ada["question"]["candidates"] != ben["question"]["candidates"]
    assert session.view("Ada") == ada == LabelSession(tmp_path).view("Ada")
    # Their keys alternate, so that Ada's is not the last line when she takes it back.
    ada = press(session, press(session, ada, 0), 1)
    ben = press(session, press(session, ben, 0, "Ben"), 1, "Ben")
    before = pairs(tmp_path, "Ben")
    session.undo("Ada")
    assert pairs(tmp_path) == []
    assert pairs(tmp_path, "Ben") == before
    assert session.view("Ben")["progress"]["answered"] == 1


def test_a_second_tab_changes_nothing_that_is_answered(tmp_path: Path):
    make_candidates(tmp_path, (2, 4))
    tabs = [LabelSession(tmp_path), LabelSession(tmp_path)]
    views = [tab.view("Ada") for tab in tabs]
    press(tabs[0], views[0], 0)
    files = contents(tmp_path)
    view = press(tabs[1], views[1], 1)
    assert view["note"] == "this was answered in another tab"
    assert view["question"]["dimension"] == "consistency"
    assert contents(tmp_path) == files


def test_processes_neither_lose_nor_double_labels(tmp_path: Path):
    """Two tabs of one person and another person, all at once."""
    make_candidates(tmp_path, (2,) * 8)
    context = multiprocessing.get_context("spawn")
    people = ("Ada", "Ada", "Ben")
    processes = [
        context.Process(target=label_by_chance, args=(tmp_path, name, seed))
        for seed, name in enumerate(people)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    data = PreferenceSet(tmp_path).pairs()  # every line is whole
    assert max(Counter(pair.comparison for pair in data).values()) == 1
    for name in set(people):
        lines = (tmp_path / f"labels/{name}.jsonl").read_text().splitlines()
        scores = [next(iter(json.loads(line)["scores"].items())) for line in lines]
        assert len(lines) == 8 * 4
        decided = Counter(d for d, values in scores if values != [0.5, 0.5])
        assert Counter(pair[2] for pair in pairs(tmp_path, name)) == decided


def test_what_cannot_be_written_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_candidates(tmp_path)
    session = LabelSession(tmp_path)
    view = press(session, session.view("Ada"), 0)
    files = contents(tmp_path)

    def fail(data: PreferenceSet, pair: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceSet, "add", fail)
        with pytest.raises(OSError, match="no space"):
            press(session, view, 1)
    assert contents(tmp_path) == files
    assert session.view("Ada")["progress"]["answered"] == 1
    press(session, view, 1)
    assert len(pairs(tmp_path)) == 2


@pytest.mark.parametrize("keeps_pair", [False, True])
def test_a_stop_between_the_two_files_loses_one_key_at_most(tmp_path: Path, keeps_pair: bool):
    make_candidates(tmp_path, (2,))
    session = LabelSession(tmp_path)
    view = press(session, session.view("Ada"), 0)
    before = contents(tmp_path)
    press(session, view, 1)
    stale = KEY_FILE if keeps_pair else PAIRS
    (tmp_path / stale).write_bytes(before[stale])
    session = LabelSession(tmp_path)
    view = session.view("Ada")
    assert view["progress"]["answered"] == (2 if keeps_pair else 1)
    press(session, view, 1)
    assert len(pairs(tmp_path)) == len(set(pairs(tmp_path)))
    while session.undo("Ada")["note"] != "there is nothing to undo":
        pass
    assert len(pairs(tmp_path)) == (1 if keeps_pair else 0)


@pytest.mark.parametrize("name", [PAIRS, KEY_FILE])
def test_a_torn_last_line_is_survived(tmp_path: Path, name: str):
    make_candidates(tmp_path, (2, 2))
    session = LabelSession(tmp_path)
    view = press(session, session.view("Ada"), 0)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data + data[:40])
    for reader in (session, LabelSession(tmp_path)):
        assert reader.view("Ada")["progress"]["answered"] == 1
    press(session, view, 1)
    assert len(pairs(tmp_path)) == 2
    assert LabelSession(tmp_path).view("Ada")["progress"]["answered"] == 2


def test_a_damaged_line_is_named_and_stays_an_error(tmp_path: Path):
    make_candidates(tmp_path, (2,))
    (tmp_path / PAIRS).write_text('{"winner_file_name": 3}\n{"x"\n')
    session = LabelSession(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2"):
            session.view("Ada")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (PAIRS, '{"winner_file_name": []}'),
        (PAIRS, '{"winner_file_name": "W", "loser_file_name": "L", "dimension": "taste"}'),
        (KEY_FILE, '{"labeller": "human:Ada", "group": "G", "scores": 1}'),
        (KEY_FILE, '{"labeller": "human:Ada", "group": "G", "scores": {"structure": [1.0, 1.0]}}'),
        (LABELS, '{"condition": "x", "labeller": "j", "scores": 5}'),
        ("candidates.jsonl", '{"file_names": 3}'),
    ],
)
def test_lines_that_are_no_records_are_an_error_every_time(tmp_path: Path, name: str, line: str):
    make_candidates(tmp_path, (2,))
    group = LabelSession(tmp_path).view("Ada")["question"]["group"]
    prefix = "images/scene-0/model"
    for mark, value in (("G", group), ("W", f"{prefix}/0.png"), ("L", f"{prefix}/1.png")):
        line = line.replace(f'"{mark}"', json.dumps(value))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with (tmp_path / name).open("a") as file:
        file.write(line + "\n")
    session = LabelSession(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=name.rpartition("/")[2]):
            session.view("Ada")


def test_groups_without_their_images_are_left_out_with_a_note(tmp_path: Path):
    make_candidates(tmp_path, (1, 2, 2))
    session = LabelSession(tmp_path)
    view = session.view("Ada")
    assert view["progress"] == {"answered": 0, "questions": 8, "groups": 2}
    (tmp_path / "images/scene-1/model/0.png").unlink()  # while it is on the screen
    place = f"{view['question']['group']}:{view['question']['dimension']}"
    view = session.view("Ada", place=place)
    assert "1 groups are left out" in view["note"]
    assert session.image(view["question"]["group"], "0").parent.parent.name == "scene-2"


def test_source_and_mask_may_be_missing(tmp_path: Path):
    make_candidates(tmp_path, (2,), Task.REMOVE)
    (tmp_path / "images/scene-0/model/mask.png").unlink()
    question = LabelSession(tmp_path).view("Ada")["question"]
    assert (question["has_source"], question["has_mask"]) == (True, False)
    assert [row["name"] for row in question["dimensions"]] == ["removal_quality"]


@pytest.mark.parametrize("name", ["", "../Ben", "a/b", "a\\b", "con", "x" * 101])
def test_names_that_are_no_plain_names_are_refused(tmp_path: Path, name: str):
    make_candidates(tmp_path, (2,))
    session = LabelSession(tmp_path)
    key = session.view("Ada")["question"] | {"choice": 0}
    for call in (lambda: session.view(name), lambda: session.answer(name, key)):
        with pytest.raises(ValueError, match="your name is"):
            call()
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize("choice", [-1, 2, 0.5, None, "worst", True, [0]])
def test_choices_that_are_none_are_refused(tmp_path: Path, choice: Any):
    make_candidates(tmp_path, (2,))
    session = LabelSession(tmp_path)
    with pytest.raises(ValueError, match="choice is"):
        session.answer("Ada", session.view("Ada")["question"] | {"choice": choice})
    assert pairs(tmp_path) == []


@pytest.mark.parametrize("image", ["2", "-1", "", "../0", "images/scene-0/model/0.png", "labels"])
def test_images_are_named_by_index_alone(tmp_path: Path, image: str):
    make_candidates(tmp_path, (2,))
    session = LabelSession(tmp_path)
    group = session.view("Ada")["question"]["group"]
    assert session.image(group, "1").name == "1.png"
    with pytest.raises(ValueError, match="there is no image"):
        session.image(group, image)
    with pytest.raises(ValueError, match="there is no group"):
        session.image("../" + group, "0")


@pytest.mark.parametrize("name", ["../../secret.png", "images/x.svg", "images/x.html"])
def test_a_folder_cannot_name_files_elsewhere_nor_what_browsers_run(tmp_path: Path, name: str):
    folder = tmp_path / "a" / "b"
    make_candidates(folder, (2, 2))
    for path in (tmp_path / "secret.png", folder / "images/x.svg", folder / "images/x.html"):
        path.write_bytes(b"x")
    text = (folder / "candidates.jsonl").read_text()
    lines = text.replace("images/scene-0/model/0.png", name)
    (folder / "candidates.jsonl").write_text(lines)
    view = LabelSession(folder).view("Ada")
    assert "1 groups are left out" in view["note"]
    assert view["question"]["group"]


def _judge(data: PreferenceSet, chances: dict[int, float]) -> None:
    for group in data.groups():
        chance = chances.get(int(group.condition.removeprefix("scene-")))
        if chance is not None:
            for dimension in map(Dimension, FOUR):
                pair = make_pair(group, dimension, (0, 1), "judge:big")
                data.add(replace(pair, confidence=chance))


def test_what_a_judge_doubts_most_comes_first(tmp_path: Path):
    data = make_candidates(tmp_path, (2,) * 4)
    _judge(data, {1: 0.9, 2: 0.6, 3: 0.8})
    session = LabelSession(tmp_path)

    def order(*, is_active: bool, name: str) -> list[str]:
        conditions = []
        while question := session.view(name, is_active=is_active)["question"]:
            conditions.append(session.image(question["group"], "0").parent.parent.name)
            key = {k: question[k] for k in ("group", "dimension", "stage")}
            session.answer(name, key | {"choice": "tie"})
        return conditions[::4]

    assert order(is_active=True, name="Ada") == ["scene-2", "scene-3", "scene-1", "scene-0"]
    assert order(is_active=False, name="Ben") == [f"scene-{i}" for i in range(4)]


def test_doubt_is_read_from_a_judge_s_scores_too(tmp_path: Path):
    """Where its candidates hardly differ there is no pair, but the most doubt."""
    make_candidates(tmp_path, (2,) * 3)
    values = {"made_by": "model", "labeller": "judge-1|full_image"}
    wins = {0: 0.95, 1: 0.52, 2: 0.8}
    lines = [
        values
        | {"condition": f"scene-{i}", "scores": {"structure": [p, 1 - p]}}
        | {"wins": [["structure", 0, 1, p]]}
        for i, p in wins.items()
    ]
    (tmp_path / LABELS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    session = LabelSession(tmp_path)
    group = session.view("Ada")["question"]["group"]
    assert session.image(group, "0").parent.parent.name == "scene-1"


def test_a_judge_s_answer_is_shown_only_after_the_person_s(tmp_path: Path):
    data = make_candidates(tmp_path, (2, 2))
    _judge(data, {0: 0.8, 1: 0.8})
    session = LabelSession(tmp_path)
    view = session.view("Ada")
    assert "judge:big" not in json.dumps(view)
    assert "0.8" not in json.dumps(view)
    first = view["question"]["candidates"].index(0)
    view = press(session, view, first)
    (row,) = view["after"]
    assert row == {
        **{"labeller": "judge:big", "best": 0, "worst": 1, "confidence": 0.8},
        "agrees": True,
    }
    view = press(session, view, 1 - first)
    assert view["after"][0]["agrees"] is False
    (row,) = view["agreement"]
    assert (row["labeller"], row["all"]["num"], row["all"]["share"]) == ("judge:big", 2, 0.5)
    assert set(row["dimensions"]) == {"text_alignment", "consistency"}
    assert "after" not in LabelSession(tmp_path).view("Ada")


def test_agreement_of_people_counts_what_hardly_differs(tmp_path: Path):
    make_candidates(tmp_path, (2,))
    session = LabelSession(tmp_path)
    answers = {"Ada": (0, 1, "tie", "tie"), "Ben": (0, 0, "tie", 1)}
    for name, choices in answers.items():
        for choice in choices:
            key = session.view(name)["question"] | {"choice": choice}
            session.answer(name, key)
    (row,) = session.view("Ada")["agreement"]
    # Ada: 0, 1, tie, tie; Ben: 0, 0, tie, 1; by chance (1*2 + 1*1 + 2*1) / 16.
    assert row["labeller"] == "human:Ben"
    assert row["all"]["share"] == 0.5
    assert row["all"]["kappa"] == pytest.approx((8 - 5) / (16 - 5))


def test_what_other_programs_write_meanwhile_is_seen(tmp_path: Path):
    data = make_candidates(tmp_path, (2,))
    session = LabelSession(tmp_path)
    view = press(session, session.view("Ada"), 0)
    # Another process labels by a judge, and replaces the file.
    _judge(data, {0: 0.7})
    data.replace_pairs(data.pairs()[::-1])
    assert session.view("Ada")["progress"]["answered"] == 1
    view = press(session, view, 0)
    assert [row["labeller"] for row in view["after"]] == ["judge:big"]
    # A person removes a pair by hand: the question is open again.
    data.replace_pairs(pair for pair in data.pairs() if pair.judged_by != "human:Ada")
    assert session.view("Ada")["progress"]["answered"] == 0
    # More candidates come.
    make_candidates(tmp_path, (2, 2))
    assert session.view("Ada")["progress"]["groups"] == 2


def test_labels_of_metrics_and_of_people_do_not_overwrite_each_other(tmp_path: Path):
    """The job replaces its own pairs again and again, while two people label."""
    data = make_candidates(tmp_path, (2,) * 8, Task.FILL)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=label_by_chance, args=(tmp_path, name, seed))
        for seed, name in enumerate(("Ada", "Ben"))
    ]
    for process in processes:
        process.start()
    num_runs = 0
    while any(process.is_alive() for process in processes):
        label(data, MetricLabeller(), 0.001 * (num_runs % 2), RecordingHost())
        num_runs += 1
    assert num_runs > 1
    for name in ("Ada", "Ben"):
        lines = (tmp_path / f"labels/{name}.jsonl").read_text().splitlines()
        assert len(lines) == 8 * 4
        num_decided = sum("[0.5, 0.5]" not in line for line in lines)
        assert len(pairs(tmp_path, name)) == num_decided


def test_a_folder_that_was_made_anew_begins_without_the_old_answers(tmp_path: Path):
    folder = tmp_path / "kites"
    make_candidates(folder, (2, 4))
    session = LabelSession(folder)
    press(session, session.view("Ada"), 0)
    shutil.rmtree(folder)
    data = make_candidates(folder, (2, 4))
    view = session.view("Ada")
    assert view["progress"]["answered"] == 0
    view = press(session, view, 1)
    assert view["progress"]["answered"] == 1
    assert len(data.pairs()) == len((folder / KEY_FILE).read_text("utf-8").splitlines()) == 1
