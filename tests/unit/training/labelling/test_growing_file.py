"""A file that grows, shrinks and is replaced between two readings."""

from __future__ import annotations

from pathlib import Path

from onereward.training.labelling.growing_file import GrowingFile


def test_only_what_is_new_is_given(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    file = GrowingFile(path)
    assert file.news() == (True, [])
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert file.news() == (True, [{"a": 1}, {"a": 2}])
    with path.open("a") as opened:
        opened.write(": 3}\n")
    assert file.news() == (False, [{"a": 3}])
    assert file.news() == (False, [])


def test_a_changed_file_is_read_again(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    file = GrowingFile(path)
    file.news()
    # As long as before, and longer: another has cut the last line off and gone on.
    for text in ('{"a": 1}\n{"a": 5}\n', '{"a": 1}\n{"a": 6}\n{"a": 7}\n', '{"a": 1}\n'):
        path.write_text(text)
        begins_anew, records = file.news()
        assert begins_anew
        assert len(records) == text.count("\n")
    path.unlink()
    assert file.news() == (True, [])


def test_a_line_that_this_program_cuts_off_is_forgotten(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    file = GrowingFile(path)
    file.news()
    path.write_text('{"a": 1}\n')
    file.cut(len('{"a": 2}\n'))
    assert file.news() == (False, [])
    path.write_text('{"a": 1}\n{"a": 9}\n')
    assert file.news() == (False, [{"a": 9}])
