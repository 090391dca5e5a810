from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from onereward.fill.task import Dimension, Task
from onereward.reward.preference import (
    GROUPS,
    PAIRS,
    CandidateGroup,
    Preference,
    PreferenceSet,
    by_split,
    split_of,
)


def pair(index: int = 0, **changes: Any) -> Preference:
    values: dict[str, Any] = {
        "winner_file_name": f"images/{index}-a.png",
        "loser_file_name": f"images/{index}-b.png",
        "task": Task.FILL,
        "dimension": Dimension.STRUCTURE,
        "condition": f"c{index // 3}",
        "prompt": "ein rößliches „Rad“\nzweite Zeile",
        "judged_by": "human",
        "settings": {"winner": {"steps": 20}, "loser": {"steps": 4}},
    }
    return Preference(**{**values, **changes})


def test_pairs_and_groups_come_back_as_they_were(tmp_path: Path) -> None:
    data = PreferenceSet(tmp_path)
    pairs = [pair(i, confidence=0.5 + i / 20) for i in range(4)]
    group = CandidateGroup(
        file_names=("a.png", "b.png"),
        task=Task.REMOVE,
        condition="c",
        settings=({"seed": 1}, {"seed": 2}),
    )
    for p in pairs:
        data.add(p)
    data.add_group(group)
    again = PreferenceSet(tmp_path)
    assert again.pairs() == pairs
    assert again.groups() == [group]


def test_columns_are_those_of_an_image_folder(tmp_path: Path) -> None:
    """``datasets`` turns every column that ends in ``_file_name`` into images."""
    PreferenceSet(tmp_path).add(pair(source_file_name="s.png", mask_file_name="m.png"))
    row = json.loads((tmp_path / PAIRS).read_text())
    columns = {key for key in row if key.endswith("_file_name")}
    assert columns == {
        "winner_file_name",
        "loser_file_name",
        "source_file_name",
        "mask_file_name",
    }


def test_a_prompt_may_hold_any_line_break(tmp_path: Path) -> None:
    """JSON leaves these as they are, and Python takes them for ends of lines."""
    odd = pair(prompt="a\u2028red\x85circle")
    PreferenceSet(tmp_path).add(odd)
    assert PreferenceSet(tmp_path).pairs() == [odd]


def test_pairs_can_be_replaced_at_once(tmp_path: Path) -> None:
    data = PreferenceSet(tmp_path)
    data.add(pair(0))
    data.replace_pairs([pair(1), pair(2)])
    assert PreferenceSet(tmp_path).pairs() == [pair(1), pair(2)]


def test_a_image_that_is_not_there_is_null(tmp_path: Path) -> None:
    """For ``datasets`` an empty file name is the folder itself."""
    PreferenceSet(tmp_path).add(pair())
    assert json.loads((tmp_path / PAIRS).read_text())["source_file_name"] is None
    assert PreferenceSet(tmp_path).pairs() == [pair()]


@pytest.mark.parametrize("cut", [2, 7, 40])
def test_a_torn_last_line_is_dropped_and_nothing_else(tmp_path: Path, cut: int) -> None:
    data = PreferenceSet(tmp_path)
    pairs = [pair(i) for i in range(3)]
    for p in pairs:
        data.add(p)
    path = tmp_path / PAIRS
    path.write_bytes(path.read_bytes()[:-cut])
    again = PreferenceSet(tmp_path)
    assert again.pairs() == pairs[:2]
    again.add(pairs[2])
    assert PreferenceSet(tmp_path).pairs() == pairs


def test_a_whole_last_line_needs_no_line_break(tmp_path: Path) -> None:
    """As editors leave it; a torn line never is a whole JSON object."""
    pairs = [pair(i) for i in range(3)]
    PreferenceSet(tmp_path).replace_pairs(pairs[:2])
    path = tmp_path / PAIRS
    path.write_bytes(path.read_bytes()[:-1])
    again = PreferenceSet(tmp_path)
    assert again.pairs() == pairs[:2]
    again.add(pairs[2])
    assert PreferenceSet(tmp_path).pairs() == pairs


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    data = PreferenceSet(tmp_path)
    data.add(pair())
    path = tmp_path / PAIRS
    path.write_text(path.read_text() + '{"task": "paint"}\n')
    with pytest.raises(ValueError, match="line 2"):
        data.pairs()


def test_unknown_columns_of_a_later_version_do_no_harm(tmp_path: Path) -> None:
    data = PreferenceSet(tmp_path)
    data.add(pair())
    path = tmp_path / PAIRS
    row = json.loads(path.read_text()) | {"mood": "good"}
    path.write_text(json.dumps(row) + "\n")
    assert data.pairs() == [pair()]


def test_splits_are_by_condition_and_do_not_move() -> None:
    conditions = [f"condition {i}" for i in range(3000)]
    counts = Counter(split_of(c) for c in conditions)
    assert 230 < counts["dev"] < 370
    assert 230 < counts["test"] < 370
    pairs = [pair(i) for i in range(60)]
    parts = by_split(pairs)
    assert sum(map(len, parts.values())) == 60
    owners = {name: {p.condition for p in part} for name, part in parts.items()}
    assert not owners["train"] & owners["test"]
    # Written down once: moving a condition into another split would leak test data into training.
    assert [split_of(c) for c in ("a", "b", "c", "d", "e", "f")] == SPLITS_OF_SIX


SPLITS_OF_SIX = ["train", "train", "train", "train", "dev", "test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loser_file_name": "images/0-a.png"}, "better than itself"),
        ({"dimension": Dimension.REMOVAL_QUALITY}, "not judged on"),
        ({"confidence": 0.4}, "0.5 to 1"),
        ({"winner_file_name": "../x.png"}, "leaves the folder"),
        ({"mask_file_name": "/etc/passwd"}, "leaves the folder"),
        ({"winner_file_name": ""}, "no file name"),
    ],
)
def test_bad_pairs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair(**changes)


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    data = PreferenceSet(folder)
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leaves the folder"):
        data.image("link/x.png")
    assert data.image("images/a.png") == folder.resolve() / "images" / "a.png"


def test_a_group_needs_settings_for_each(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 settings for 2 candidates"):
        CandidateGroup(file_names=("a.png", "b.png"), task=Task.FILL, condition="c", settings=({},))
    assert PreferenceSet(tmp_path).groups() == []
    assert not (tmp_path / GROUPS).exists()
