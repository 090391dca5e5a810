"""One writer per folder: a second process is told who writes, and a lock ends with its process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pytest
from PIL import Image

from onereward import cli
from onereward.fill.io.folder_lock import HOLDER, LOCK, FolderInUse, folder_lock, put_right
from onereward.fill.io.writing import folder_set_aside
from onereward.fill.local_host import LocalHost
from onereward.reward.exchange import import_pairs
from onereward.training.data.label import LabelConfig
from onereward.training.jobs import LabelJob
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.train import train_judge
from onereward.training.policy.run import train_policy
from support.machine import ROOT
from support.policy_runs import policy_config

_HOLDS = """
import sys
sys.path.insert(0, {tests!r})
import conftest
from pathlib import Path
from onereward.fill.io.folder_lock import folder_lock
with folder_lock(Path({folder!r})):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a folder."""
    script = _HOLDS.format(tests=str(ROOT / "tests"), folder=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held_elsewhere(folder) as process:
        expected = rf"run is in use by process {process.pid} on \S+ since \d{{4}}-.*; wait until"
        with pytest.raises(FolderInUse, match=expected) as refusal, folder_lock(folder):
            raise AssertionError("two hold it")
        assert len(str(refusal.value)) <= 300
        put_right(folder)  # changes nothing of who is alive
        assert (folder / HOLDER).exists()
        process.kill()
        process.wait()
    assert (folder / LOCK).exists()
    put_right(folder)
    assert not list(folder.iterdir())


def test_one_process_may_take_it_again(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        with folder_lock(tmp_path):
            pass
        assert (tmp_path / HOLDER).exists()
    assert not list(tmp_path.iterdir())


def test_what_a_stop_has_left_is_put_right(tmp_path: Path) -> None:
    old = folder_set_aside(tmp_path / "checkpoint")
    old.mkdir()
    (old / "state.json").write_text("{}")
    (tmp_path / ".onereward-new-adapter").mkdir()
    with folder_lock(tmp_path):
        assert (tmp_path / "checkpoint" / "state.json").exists()
        assert not (tmp_path / ".onereward-new-adapter").exists()


def test_a_drive_without_locks_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with folder_lock(tmp_path):
        assert (tmp_path / HOLDER).exists()
    assert "this drive has no locks" in caplog.text


def _label(folder: Path) -> None:
    settings = LabelConfig(labeller="metrics")
    LabelJob(preferences_folder=str(folder), judge={}, settings=settings).run(LocalHost("cpu"))


def _train(folder: Path) -> None:
    train_policy(policy_config(folder, folder, folder), LocalHost("cpu"))


def _train_judge(folder: Path) -> None:
    config = JudgeTrainConfig(run_folder=str(folder), preferences_folder=str(folder))
    train_judge(config, LocalHost("cpu"))


@pytest.mark.parametrize("write", [_train, _train_judge, _label], ids=lambda f: f.__name__)
def test_writers_of_runs_and_data_refuse(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with held_elsewhere(tmp_path), pytest.raises(FolderInUse, match="is in use by process"):
        write(tmp_path)


def test_importing_pairs_refuses(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red" if name == "a" else "blue").save(tmp_path / f"{name}.png")
    rows = "winner,loser,task,dimension,condition\na.png,b.png,remove,removal_quality,c\n"
    (tmp_path / "pairs.csv").write_text(rows)
    with held_elsewhere(tmp_path / "data"), pytest.raises(FolderInUse):
        import_pairs(tmp_path / "pairs.csv", tmp_path / "data")


def test_the_command_line_refuses_a_folder_of_edits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    with held_elsewhere(tmp_path / "edited"):
        assert cli.main(["edit", "remove", str(tmp_path / "a.png"), "--device", "cpu"]) == 1
    assert "edited is in use by process" in capsys.readouterr().err


def test_two_threads_of_one_process_do_not_share_it(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def take() -> None:
        try:
            with folder_lock(tmp_path):
                outcomes.append("taken")
        except FolderInUse as error:
            outcomes.append(str(error))

    with folder_lock(tmp_path):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert f"is in use by process {os.getpid()}" in outcomes[0]
