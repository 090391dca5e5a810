"""Hand-made pairs come in, and other tools load what goes out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from onereward import cli
from onereward.fill.task import Dimension, Task
from onereward.reward.exchange import SPLIT_NAMES, export_pairs, import_pairs
from onereward.reward.preference import CandidateGroup, Preference, PreferenceSet, split_of
from support.damage import damaged_images

NUM = 30


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Pairs of images in a folder ``mine``."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = []
    for index in range(NUM):
        for kind, level in (("good", 200), ("bad", 50), ("source", 120)):
            Image.new("RGB", (16, 16), (level, index, 7)).save(folder / f"{index}-{kind}.png")
        rows.append(
            {
                "winner": f"{index}-good.png",
                "loser": f"{index}-bad.png",
                "source": f"{index}-source.png",
                "task": "fill",
                "dimension": "structure",
                "prompt": "a red circle",
            }
        )
    return rows


def write(folder: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    path = folder / "mine" / f"pairs.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_list_becomes_pairs_once(rows: list[dict[str, Any]], tmp_path: Path, kind: str) -> None:
    path, data = write(tmp_path, rows, kind), tmp_path / "data"
    assert import_pairs(path, data) == NUM
    assert import_pairs(path, data) == 0
    opened = PreferenceSet(data)
    pairs = opened.pairs()
    assert len(pairs) == NUM
    for row, pair in zip(rows, pairs, strict=True):
        assert pair.task is Task.FILL
        assert pair.dimension is Dimension.STRUCTURE
        assert pair.judged_by == "human"
        for name, stored in (("winner", pair.winner_file_name), ("loser", pair.loser_file_name)):
            assert opened.image(stored).read_bytes() == (path.parent / row[name]).read_bytes()
    assert len({pair.condition for pair in pairs}) == NUM


def test_pairs_of_one_source_stay_together(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    shared = [row | {"source": rows[0]["source"]} for row in rows]
    shared[1] |= {"dimension": "text_alignment", "prompt": "a red circle"}
    import_pairs(write(tmp_path, shared, "csv"), tmp_path / "data")
    assert len({pair.condition for pair in PreferenceSet(tmp_path / "data").pairs()}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"winner": "nowhere.png"}, r"row 2: .*nowhere.png"),
        ({"winner": "pairs.jsonl"}, "row 2: .* cannot be read as an image"),
        ({"dimension": "beauty"}, "row 2: dimension is 'beauty'; choose one of"),
        ({"task": "remove"}, "row 2: remove is not judged on structure"),
        ({"source": ""}, "row 2: give source or condition"),
        ({"loser": ""}, "row 2: loser missing"),
        ({"stars": "5"}, "row 2: unknown columns stars"),
        ({"loser": "1-good.png"}, "row 2: '1-good.png' and '1-good.png' are the same"),
        (
            {"loser": "wide.png"},
            "row 2: loser 'wide.png' is 32x16 pixels but winner is",
        ),
        ({"confidence": "sure"}, "row 2: confidence is .sure., but 0.5 to 1"),
        ({"dimension": "text_alignment", "prompt": ""}, "row 2: text alignment needs the prompt"),
        ({"winner": "large.png"}, "row 2: .* cannot be read as an image"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    rows: list[dict[str, Any]], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    Image.new("RGB", (32, 16)).save(tmp_path / "mine" / "wide.png")
    (tmp_path / "mine" / "large.png").write_bytes(damaged_images()["far too large"])
    rows[1] |= changes
    path = write(tmp_path, rows, "jsonl")
    with pytest.raises(ValueError, match=message):
        import_pairs(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lists_of_spreadsheets_are_read_as_they_are(
    rows: list[dict[str, Any]], tmp_path: Path, delimiter: str
) -> None:
    """With a byte order mark, line ends and paths of Windows, decimal commas, and capitals."""
    folder = tmp_path / "mine" / "round 1"
    folder.mkdir()
    for path in (tmp_path / "mine").glob("*.png"):
        path.rename(folder / path.name)
    lines = [["Winner", "Loser", "source", "Task", "Dimension ", "prompt", "Confidence"]]
    for row in rows:
        names = ["round 1\\" + row[name] for name in ("winner", "loser", "source")]
        lines.append([*names, "Fill", "Text alignment", "red, round; big", "0,9"])
    path = tmp_path / "mine" / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    assert import_pairs(path, tmp_path / "data") == NUM
    pair = PreferenceSet(tmp_path / "data").pairs()[0]
    assert (pair.task, pair.dimension) == (Task.FILL, Dimension.TEXT_ALIGNMENT)
    assert (pair.prompt, pair.confidence) == ("red, round; big", 0.9)


def test_chosen_and_rejected_are_winner_and_loser(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    truth = import_pairs(write(tmp_path, rows, "jsonl"), tmp_path / "data")
    for row in rows:
        row |= {"chosen": row.pop("winner"), "rejected": row.pop("loser")}
    assert truth == import_pairs(write(tmp_path, rows, "jsonl"), tmp_path / "other")
    assert PreferenceSet(tmp_path / "data").pairs() == PreferenceSet(tmp_path / "other").pairs()


def test_all_bad_rows_are_named_at_once(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows[1]["dimension"] = "beauty"
    rows[4]["loser"] = "gone.png"
    with pytest.raises(ValueError, match="row 2") as error:
        import_pairs(write(tmp_path, rows, "csv"), tmp_path / "data")
    first, second = str(error.value).splitlines()
    assert "pairs.csv, row 2: dimension is 'beauty'" in first
    assert "row 5: " in second
    assert "gone.png" in second
    for row in rows:
        row["task"] = "paint"
    with pytest.raises(ValueError, match=f"and {NUM - 20} more rows"):
        import_pairs(write(tmp_path, rows, "csv"), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("pairs.csv", "pairs.jsonl"):
        (tmp_path / name).write_bytes("winner,überblick\n".encode("latin-1"))
        with pytest.raises(ValueError, match=f"{name} is not text in UTF-8 .*save it as UTF-8"):
            import_pairs(tmp_path / name, tmp_path / "data")
    with pytest.raises(ValueError, match=r"neither .csv nor .jsonl"):
        import_pairs(tmp_path / "pairs.txt", tmp_path / "data")
    (tmp_path / "pairs.csv").write_text("winner,loser\n")
    with pytest.raises(ValueError, match="lists no pairs"):
        import_pairs(tmp_path / "pairs.csv", tmp_path / "data")
    with pytest.raises(ValueError, match="with pairs"):
        export_pairs(tmp_path / "data", tmp_path / "out")


def test_the_commands_import_export_and_refuse(
    rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = str(tmp_path / "data"), str(tmp_path / "out")
    assert cli.main(["import-pairs", str(write(tmp_path, rows, "csv")), data]) == 0
    assert f"{NUM} new pairs" in capsys.readouterr().out
    assert cli.main(["export-pairs", data, out]) == 0
    assert "train" in capsys.readouterr().out
    assert cli.main(["export-pairs", data, out]) == 1
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["export-pairs", data, out + "2", "--judged-by", "oracle"]) == 1
    assert "no pairs judged by oracle" in capsys.readouterr().err


def test_datasets_loads_both_as_image_folders(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    folder, data = tmp_path / "data", PreferenceSet(tmp_path / "data")
    import_pairs(write(tmp_path, rows, "csv"), folder)
    first = data.pairs()[0]
    data.add(
        Preference(
            winner_file_name=first.loser_file_name,
            loser_file_name=first.winner_file_name,
            task=Task.REMOVE,
            dimension=Dimension.REMOVAL_QUALITY,
            condition="another",
            mask_file_name=first.source_file_name,
            settings={"winner": {"steps": 3, "negative_prompt": ""}, "loser": {"steps": 4}},
        )
    )
    names = (first.winner_file_name, first.loser_file_name)
    data.add_group(CandidateGroup(file_names=names, task=Task.FILL, condition="another"))
    whole = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(whole) == NUM + 1
    assert whole[0]["winner"].getpixel((0, 0)) == (200, 0, 7)
    assert whole[0]["mask"] is None
    assert whole[0]["dimension"] == "structure"
    assert whole[NUM]["source"] is None
    assert whole[NUM]["mask"].getpixel((0, 0)) == (120, 0, 7)
    assert whole[NUM]["settings"]["winner"]["steps"] == 3
    exported = export_pairs(folder, tmp_path / "out")
    assert exported.left_out == ("mask_file_name",)
    split = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in split.items()} == exported.counts
    for name, part in split.items():
        assert {SPLIT_NAMES[split_of(condition)] for condition in part["condition"]} == {name}
