"""``onereward label --open``: the labelling page without ComfyUI, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from onereward.cli import main
from support.candidate_folders import make_candidates


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The page's address, as the command prints it."""
    make_candidates(tmp_path / "my kites")
    process = subprocess.Popen(
        [sys.executable, "-m", "onereward", "label", "--open", str(tmp_path / "my kites")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"BROWSER": "true"},
    )
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, "every answer is saved" in output) == (0, True)


def test_the_page_labels_one_folder_for_this_computer_alone(page: str, tmp_path: Path):
    assert page.endswith("/onereward/labelling/?folder=my%20kites")
    assert urlsplit(page).hostname == "127.0.0.1"
    base = page.partition("?")[0]
    with urllib.request.urlopen(page) as answer:
        assert b"label.mjs" in answer.read()
    with urllib.request.urlopen(f"{base}api/view?folder=my+kites&name=Ada") as answer:
        question = json.load(answer)["question"]
    values = question | {"folder": "my kites", "name": "Ada", "choice": 0}
    headers = {"Content-Type": "application/json"}
    data = json.dumps(values).encode()
    request = urllib.request.Request(f"{base}api/answer", data, headers)
    # Another site's name for this computer is another site.
    for host in ("evil.example", "evil.example:80", ""):
        rebound = urllib.request.Request(f"{base}api/answer", data, headers | {"Host": host})
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(rebound)
        assert refusal.value.code in (400, 403)
    assert not (tmp_path / "my kites/metadata.jsonl").exists()
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["progress"]["answered"] == 1
    assert '"human:Ada"' in (tmp_path / "my kites/metadata.jsonl").read_text()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{base}api/view?folder=..&name=Ada")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--open", "nowhere"], "has no candidates.jsonl"),
        ([], "give either the file of a job or --open"),
        (["job.json", "--open", "x"], "give either the file of a job or --open"),
    ],
)
def test_bad_arguments_get_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["label", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_without_aiohttp_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make_candidates(tmp_path)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert main(["label", "--open", str(tmp_path)]) == 1
    assert "pip install aiohttp" in capsys.readouterr().err
