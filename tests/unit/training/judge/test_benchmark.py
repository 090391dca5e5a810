"""Public benchmarks in their published formats, and what a judge's answers come to."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from onereward.cli import main
from onereward.fill.local_host import LocalHost
from onereward.reward.judge import JudgeError, PairQuestion
from onereward.training.judge.benchmark import (
    PublicAnswer,
    read_records,
    run_benchmark,
    summarise,
)
from onereward.training.judge.public_pairs import PublicPair, read_public_pairs

arrow = pytest.importorskip("pyarrow")


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def cell(shade: int) -> dict[str, Any]:
    """An image as parquet files of the hub hold it."""
    return {"bytes": png(shade), "path": f"{shade}.png"}


def tiger_rows() -> list[dict[str, Any]]:
    ranks = [("AvsB", "A>B"), ("AvsC", "C>A"), ("BvsC", "B=C")]
    return [
        {
            **{"id": index, "dataset": "3pair", "instruction": "add a hat"},
            **{"source_image": cell(0), "candidate_1": cell(10), "candidate_2": cell(20)},
            **{"ranking": ranking, "score_1": 4.0, "score_2": 2.0},
            "comparison_type": comparison,
        }
        for index, (comparison, ranking) in enumerate(ranks)
    ]


def editscore_rows() -> list[dict[str, Any]]:
    return [
        {
            **{"key": ["a", "b"], "task_type": "color_alter", "dimension": dimension},
            **{"instruction": "paint it red", "input_image": cell(0)},
            "output_images": [cell(30), cell(40)],
        }
        for dimension in ("prompt_following", "consistency", "overall")
    ]


def genai_rows() -> list[dict[str, Any]]:
    return [
        {
            **{"source_prompt": "a dog", "target_prompt": "a cat", "instruct_prompt": "make a cat"},
            **{
                "source_image": cell(0),
                "left_output_image": cell(1),
                "right_output_image": cell(2),
            },
            **{"left_model": "x", "right_model": "y", "vote_type": vote},
        }
        for vote in ("leftvote", "rightvote", "tievote", "bothbad_vote")
    ]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


def write_arrow(path: Path, rows: list[dict[str, Any]]) -> Path:
    table = arrow.Table.from_pylist(rows)
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return path


def write_firm(folder: Path) -> Path:
    scores = {"1": (4, 5), "2": (2, 5), "3": (2, 1)}
    bench, human = [], []
    (folder / "result").mkdir(parents=True)
    (folder / "gedit_bench").mkdir()
    (folder / "gedit_bench/0.png").write_bytes(png(0))
    for key, (execution, consistency) in scores.items():
        (folder / f"edit{key}").mkdir()
        (folder / f"edit{key}/0.png").write_bytes(png(50 * int(key)))
        images = ["gedit_bench/0.png", f"edit{key}/0.png"]
        bench.append({"id": key, "instruction": "add a hat", "image": images})
        human.append(
            {
                **{"id": key, "image": images},
                "execution": {"reasoning": "", "score": [execution]},
                "consistency": {"reasoning": "", "score": [consistency]},
            }
        )
    for name, records in (("bench_v1.jsonl", bench), ("result/human_bench_v1.jsonl", human)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def shade(pair: PublicPair, data: bytes | Path) -> int:
    return round(float(pair.image(data).mean()) * 255)


def test_editreward_bench_of_tiger_lab(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "3pair/train-00000-of-00001.parquet", tiger_rows())
    pairs = list(read_public_pairs(tmp_path))
    assert [pair.better for pair in pairs] == [1.0, 0.0, 0.5]
    assert {pair.dimension for pair in pairs} == {"overall"}
    assert [shade(pairs[0], i) for i in (pairs[0].source, pairs[0].first, pairs[0].second)] == [
        *(0, 10, 20)
    ]
    assert len({pair.key for pair in pairs}) == 3
    assert len({pair.group for pair in pairs}) == 1
    assert [pair.better for pair in read_public_pairs(path)] == [1.0, 0.0, 0.5]


def test_editreward_bench_of_editscore(tmp_path: Path) -> None:
    pairs = list(read_public_pairs(write_arrow(tmp_path / "data.arrow", editscore_rows())))
    assert [pair.dimension for pair in pairs] == ["prompt_following", "consistency", "overall"]
    assert {pair.better for pair in pairs} == {1.0}
    assert shade(pairs[0], pairs[0].second) == 40


def test_genai_bench(tmp_path: Path) -> None:
    pairs = list(read_public_pairs(write_parquet(tmp_path / "a.parquet", genai_rows())))
    assert [pair.better for pair in pairs] == [1.0, 0.0, 0.5, 0.5]
    assert pairs[0].instruction == "make a cat"


def test_pairs_in_json_name_their_files(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    for name, value in {"source": 0, "left": 7, "right": 9}.items():
        (tmp_path / f"0/{name}.png").write_bytes(png(value))
    row = {"instruct_prompt": "add a hat", "source_image": "0/source.png", "vote_type": "leftvote"}
    row |= {"left_output_image": "0/left.png", "right_output_image": "0/right.png"}
    (tmp_path / "pairs.json").write_text(json.dumps([row]))
    (pair,) = read_public_pairs(tmp_path / "pairs.json")
    assert shade(pair, pair.first) == 7


def test_firm_bench_becomes_pairs_where_people_score_differently(tmp_path: Path) -> None:
    pairs = list(read_public_pairs(write_firm(tmp_path / "FIRM-Bench-Edit")))
    assert [(pair.key, pair.better) for pair in pairs] == [
        ("1:2:execution", 1.0),
        *(("1:3:execution", 1.0), ("1:3:consistency", 1.0)),
        ("2:3:consistency", 1.0),
    ]
    assert shade(pairs[0], pairs[0].second) == 100


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "x"}, "of no known form"),
        (genai_rows()[0] | {"vote_type": "best"}, "vote_type is 'best'"),
        (tiger_rows()[0] | {"ranking": "A>C"}, "ranking 'A>C' is not about 'AvsB'"),
        (genai_rows()[0] | {"source_image": None}, "an image is None"),
        ({k: v for k, v in tiger_rows()[0].items() if k != "instruction"}, "lacks 'instruction'"),
    ],
)
def test_what_is_no_pair_is_one_sentence(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        list(read_public_pairs(write_parquet(tmp_path / "a.parquet", [row])))
    assert "entry 1" in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_no_benchmark_and_damaged_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no benchmark in"):
        list(read_public_pairs(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read"):
        list(read_public_pairs(tmp_path))


def answer(better: float, forward: float | None, backward: float, **more: Any) -> PublicAnswer:
    values = {"key": "k", "group": "", "dimension": "overall", "seconds": 1.0} | more
    return PublicAnswer(better=better, forward=forward, backward=backward, **values)


def test_numbers_are_those_worked_out_by_hand() -> None:
    answers = [
        answer(1.0, 0.9, 0.3),  # score 0.8: right, consistent
        answer(0.0, 0.8, 0.54),  # the second is better with (0.54 + 1 - 0.8) / 2 = 0.37: wrong
        answer(1.0, 0.7, 0.6),  # 0.55: right, not consistent
        answer(0.0, 0.1, 0.9),  # 0.9: right, consistent
        answer(0.5, 0.9, 0.1),
        answer(1.0, None, 0.1),
        answer(1.0, 0.5, 0.5, dimension="consistency", seconds=3.0),
    ]
    result = summarise(answers, "judge", 1024)
    overall = result.dimensions["overall"]
    assert (overall.num_pairs, overall.num_ties, overall.num_unread) == (4, 1, 1)
    assert overall.accuracy == 0.75
    # Wilson: (p + z²/2n ± z sqrt(p (1 - p) / n + z² / 4n²)) / (1 + z²/n)
    z2 = 1.959964**2
    half = math.sqrt(z2) * math.sqrt(0.75 * 0.25 / 4 + z2 / 64)
    assert overall.low == pytest.approx((0.75 + z2 / 8 - half) / (1 + z2 / 4))
    assert overall.high == pytest.approx((0.75 + z2 / 8 + half) / (1 + z2 / 4))
    assert overall.swap_consistency == 0.5
    shown_first = [0.9, 0.3, 0.8, 0.54, 0.7, 0.6, 0.1, 0.9]
    assert overall.position_bias == pytest.approx(sum(shown_first) / 8 - 0.5)
    # Confidences 0.8 right, 0.63 wrong, 0.55 right, 0.9 right, each in a bin of its own.
    assert overall.calibration_error == pytest.approx((0.2 + 0.63 + 0.45 + 0.1) / 4)
    assert result.dimensions["consistency"].accuracy == 0.5, "a tie of the judge counts half"
    assert result.seconds == 1.0
    with pytest.raises(ValueError, match="none of 1 pairs can be counted"):
        summarise([answer(0.5, 0.9, 0.1)], "judge", 0)


class BrightJudge:
    """Prefers brighter images, somewhat more if they come first; cannot read some answers."""

    label, digest, folder, notes = "bright", "0", None, {}
    needs_source, is_differentiable, components = True, False, ()

    def __init__(self, identity: str = "1") -> None:
        self.identity = identity
        self.instructions: list[str] = []

    def to_values(self) -> dict[str, Any]:
        return {}

    def check(self) -> None:
        pass

    def working_bytes(self, pixels: int, rows: int = 1) -> int:
        return 0

    def training_bytes(self, pixels: int, rows: int, recompute: bool) -> int:
        return 0

    def encode_images(self, images: Sequence[torch.Tensor]) -> list[float]:
        return [float(image.mean()) * 255 for image in images]

    def probabilities(self, questions: Sequence[PairQuestion]) -> torch.Tensor:
        for first, second, query, source in questions:
            assert source == 0
            assert query.question()
            self.instructions.append(query.instruction())  # pyright: ignore[reportAttributeAccessIssue]
            if "hat" in self.instructions[-1] and first == second:
                raise JudgeError("no score")
        logits = [(q.first - q.second) / 10 + 0.1 for q in questions]
        return torch.tensor(logits).sigmoid()


def test_a_benchmark_is_asked_in_both_orders_and_goes_on(tmp_path: Path) -> None:
    data, folder, judge = tmp_path / "data", tmp_path / "out", BrightJudge()
    write_parquet(data / "tiger.parquet", tiger_rows())
    write_parquet(data / "genai.parquet", genai_rows())
    host = LocalHost("cpu")
    run_benchmark(judge, data, folder, host, max_pairs=2)
    num_asked = len(judge.instructions)
    result = run_benchmark(judge, data, folder, host)
    # Two pairs were asked before; the other five are asked in two orders and four dimensions.
    assert len(judge.instructions) - num_asked == 5 * 2 * 4
    assert "make a cat" in judge.instructions
    overall = result.dimensions["overall"]
    # People prefer the first, the second (brighter), the left, and the right (brighter).
    assert (overall.num_pairs, overall.num_ties) == (4, 3)
    assert overall.accuracy == 0.5
    assert overall.position_bias > 0
    stored = json.loads((folder / "result.json").read_text())
    assert stored["dimensions"]["overall"]["accuracy"] == 0.5
    assert stored["peak_bytes"] > 0
    lines = read_records(folder / "answers.jsonl", dict)
    assert len(lines) == 7
    with pytest.raises(ValueError, match="holds answers of another judge"):
        run_benchmark(BrightJudge("2"), data, folder, host)


def test_an_answer_that_cannot_be_read_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    rows = tiger_rows()
    rows[0]["candidate_2"] = rows[0]["candidate_1"]
    data = write_parquet(tmp_path / "a.parquet", rows)
    result = run_benchmark(BrightJudge(), data, tmp_path / "out", LocalHost("cpu"))
    overall = result.dimensions["overall"]
    assert (overall.num_pairs, overall.num_ties, overall.num_unread) == (1, 1, 1)


def test_the_command_writes_a_table_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_firm(tmp_path / "FIRM-Bench-Edit"), tmp_path / "out"
    arguments = ["benchmark-judge", "bundled", str(data), str(out), "--threads", "1"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "| execution | 2 |" in text
    assert "| consistency | 2 |" in text
    assert "bundled: " in text
    assert (out / "result.json").is_file()
    job = tmp_path / "label.json"
    job.write_text(json.dumps({"judge": {"folder": "bundled"}, "settings": {}}))
    assert main(["benchmark-judge", str(job), *arguments[2:]]) == 0, "the same judge goes on"
    job.write_text(json.dumps({"judge": {"kind": "oracle"}}))
    assert main(["benchmark-judge", str(job), *arguments[2:]]) == 1
    assert "kind of a judge is 'oracle'" in capsys.readouterr().err
    assert main(["benchmark-judge", "bundled", str(tmp_path / "none"), str(out)]) == 1
    assert "another data" in capsys.readouterr().err
    assert main(["benchmark-judge", str(tmp_path / "none"), str(data), str(out)]) == 1
    assert main([*arguments, "--card", "firm_edit"]) == 1
    assert "card 'FIRM-Edit' is for" in capsys.readouterr().err
