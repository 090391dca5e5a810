"""Names from outside, against what a file system of this machine can really hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from onereward.fill.io.names import check_file_name, check_name


@pytest.mark.parametrize("name", ["my-data", "a b.c_d-1", "猫" * 66, "x" * 100, "comet", "3"])
def test_plain_names_make_folders_with_the_longest_ending(name: str, tmp_path: Path):
    check_name(name)
    (tmp_path / f"{name}.safetensors.12345678.tmp").touch()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "letter or digit first"),
        ("x" * 101, "up to 100"),
        ("猫" * 100, "300 bytes"),
        ("\U00020bb7" * 60, "240 bytes"),
        *(
            (name, "letters, digits")
            for name in ("a/b", "..", ".a", "a.", "a ", "a\0b", "a\n", "-")
        ),
        *((name, "letters, digits") for name in ("a\ud800", "C:x", "/tmp", "a\\b")),
        *((name, "device") for name in ("con", "NUL", "com1", "aux.txt", "Lpt9.tar.gz")),
    ],
)
def test_other_names_are_refused_in_a_sentence(name: str, reason: str):
    with pytest.raises(ValueError, match=reason) as caught:
        check_name(name)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", ["a.png", "images/猫.png", "a b/c?.png", "masks/a..b.png"])
def test_file_names_below_a_folder_can_be_written(name: str, tmp_path: Path):
    check_file_name(name)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *(
            (name, "leaves the folder")
            for name in ("", "..", "a/../../b", "/etc/passwd", "//h/s/x")
        ),
        *((name, "leaves the folder") for name in ("C:\\x", "C:x", "\\x", "a\\..\\..\\b")),
        *((name, "no file's name") for name in ("a\0b", "a\ud800", "猫" * 86, "b/" + "x" * 256)),
    ],
)
def test_other_file_names_are_refused_in_a_sentence(name: str, reason: str):
    with pytest.raises(ValueError, match=reason) as caught:
        check_file_name(name)
    assert len(str(caught.value)) <= 300
