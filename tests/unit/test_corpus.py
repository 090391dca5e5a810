"""Every file of the corpus comes to what stands beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpus.malformed_files import CorpusCase, corpus

from support.file_formats import file_formats
from support.sentences import is_sentence

FORMATS = file_formats()
CASES = corpus()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.format}: {case.name}"[:60])
@pytest.mark.filterwarnings("ignore")
def test_a_file_of_the_corpus(case: CorpusCase, tmp_path: Path):
    file_format = FORMATS[case.format]
    file_format.write(tmp_path)
    path = tmp_path / file_format.file
    path.unlink()
    path.mkdir() if case.contents is None else path.write_bytes(case.contents)
    if not case.refusal:
        value = file_format.read(tmp_path)
        assert case.value is None or value == case.value
        return
    with pytest.raises((ValueError, OSError, RuntimeError)) as caught:
        file_format.read(tmp_path)
    assert re.search(case.refusal, str(caught.value)), str(caught.value)
    assert is_sentence(caught.value, file_format.name), str(caught.value)
