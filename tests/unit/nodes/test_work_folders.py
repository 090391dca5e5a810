"""Folders of data: bundled examples come first, open like a user's own, and stay as they are."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from onereward.reward.preference import PreferenceSet
from onereward.training.data.conditions import EditDataset


@pytest.fixture
def work_folders(nodes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module with an input folder that has two folders of images, and an output."""
    import folder_paths

    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    example = EditDataset(nodes.paths.work_folders.EXAMPLES / "toy-test")
    image = example.folder / example.conditions[0].image_file_name
    for name in ("input/a", "output/z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(image.read_bytes())
    (tmp_path / "input" / "pairs").mkdir()
    (tmp_path / "input" / "pairs" / "metadata.jsonl").write_text("")
    return nodes.paths.work_folders


def test_bundled_examples_are_listed_first_and_load(work_folders: Any):
    names = work_folders.image_folders()
    assert names[-2:] == ["a", "z [output]"]
    bundled = names[:-2]
    assert work_folders.DEFAULT_EXAMPLE in bundled
    assert all(name.endswith(work_folders.BUNDLED_MARK) for name in bundled)
    for name in (work_folders.DEFAULT_EXAMPLE, "toy-test" + work_folders.BUNDLED_MARK):
        dataset = EditDataset(work_folders.image_folder(name))
        dataset.check(dataset.conditions)
        assert {condition.task.value for condition in dataset.conditions} == {
            *("fill", "extend", "remove", "text")
        }


def test_bundled_preferences_are_listed_first_and_load(work_folders: Any):
    first, *users = work_folders.preference_folders()
    assert first.endswith(work_folders.BUNDLED_MARK)
    assert users == ["pairs"]
    data = PreferenceSet(work_folders.data_folder(first))
    assert data.pairs()
    for group in data.groups():
        assert all(data.image(name).is_file() for name in group.file_names)


def test_the_bundled_photograph_comes_with_its_mask(
    nodes: ModuleType, work_folders: Any, monkeypatch: pytest.MonkeyPatch
):
    load = nodes.load_folder.OneRewardLoadFolder
    monkeypatch.setattr(load, "hidden", SimpleNamespace(unique_id=None))
    images, masks, names, _ = load.execute("photo" + work_folders.BUNDLED_MARK).args
    assert len(images) == 1
    assert images[0].shape[1:3] == masks[0].shape[1:3]
    assert 0 < masks[0].mean() < 0.5
    assert names == ["onereward/photo/coffee"]


def test_bundled_preferences_cannot_be_labelled(nodes: ModuleType, work_folders: Any):
    (bundled,) = (name for name in work_folders.preference_folders() if "[bundled]" in name)
    data = PreferenceSet(work_folders.data_folder(bundled))
    before = {path: path.read_bytes() for path in data.folder.glob("*.jsonl")}
    with pytest.raises(ValueError, match=r"is a bundled example.*choose the copy"):
        nodes.dataset.OneRewardLabelPreferences.execute(data, labeller="metrics")
    assert {path: path.read_bytes() for path in data.folder.glob("*.jsonl")} == before
    assert not (data.folder / "label.json").exists()
    work_folders.check_writable(work_folders.image_folder("pairs"))


@pytest.mark.parametrize("label", ["../x", "", " [bundled]", "../../assets/judge [bundled]"])
def test_labels_cannot_leave_their_root(work_folders: Any, label: str):
    with pytest.raises(ValueError, match="choose one from the list"):
        work_folders.image_folder(label)


@pytest.mark.parametrize("kind", ["file", "pipe", "broken link", "circle"])
def test_a_run_goes_into_a_folder_only(work_folders: Any, kind: str):
    folder = work_folders.work_folder("policies", "mine")
    folder.parent.mkdir(parents=True)
    if kind == "file":
        folder.touch()
    elif kind == "pipe":
        os.mkfifo(folder)
    else:
        folder.symlink_to("/nowhere" if kind == "broken link" else folder)
    with pytest.raises(ValueError, match=r"^name is 'mine', but .*policies/mine is no folder"):
        work_folders.work_folder("policies", "mine")


def test_masks_are_no_folder_of_images(work_folders: Any, tmp_path: Path):
    for name in ("trip/a.png", "trip/masks/a.png", "trip/party_masks/a.png", "trip/.hidden/a.png"):
        path = tmp_path / "input" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    users = [name for name in work_folders.image_folders() if "[" not in name]
    assert [name for name in users if name.startswith("trip")] == ["trip", "trip/party_masks"]
