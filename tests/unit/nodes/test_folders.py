"""Which models are listed, and that no name leads out of the model folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest


def make_folder(path: Path, file: str, class_name: str) -> Path:
    path.mkdir(parents=True)
    (path / file).write_text(json.dumps({"_class_name": class_name}), encoding="utf-8")
    return path


def pipeline(path: Path, class_name: str = "FluxFillPipeline") -> Path:
    folder = make_folder(path, "model_index.json", class_name)
    make_folder(path / "transformer", "config.json", "FluxTransformer2DModel")
    return folder


def transformer(path: Path, class_name: str = "FluxTransformer2DModel") -> Path:
    return make_folder(path, "config.json", class_name)


def test_lists_what_is_there_and_nothing_else(nodes: ModuleType, models_dir: Path):
    pipeline(models_dir / "diffusers" / "FLUX.1-Fill-dev")
    pipeline(models_dir / "onereward" / "owner" / "mine")
    pipeline(models_dir / "diffusers" / "sdxl", "StableDiffusionXLPipeline")
    transformer(models_dir / "diffusers" / "OneReward" / "flux.1-fill-dev-OneReward-transformer")
    transformer(models_dir / "diffusers" / "unet", "UNet2DConditionModel")
    (models_dir / "diffusers" / "broken").mkdir()
    (models_dir / "diffusers" / "broken" / "model_index.json").write_text("{", encoding="utf-8")
    (models_dir / "loras" / "removal.safetensors").write_bytes(b"")
    (models_dir / "loras" / "old.ckpt").write_bytes(b"")
    assert nodes.paths.folders.model_names() == [
        *(
            nodes.paths.folders.BUNDLED,
            "FLUX.1-Fill-dev",
            "owner/mine",
            nodes.paths.folders.NO_FOLDER,
        ),
    ]
    assert nodes.paths.folders.transformer_names() == [
        nodes.paths.folders.FROM_MODEL,
        "OneReward/flux.1-fill-dev-OneReward-transformer",
    ]
    bundled = list(nodes.paths.folders.bundled_adapters())
    assert nodes.paths.folders.adapter_names() == ["removal.safetensors", *bundled]


def test_bundled_adapters_come_last_and_are_found(
    nodes: ModuleType, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "adapters").mkdir()
    file = tmp_path / "adapters" / "fixed.safetensors"
    file.write_bytes(b"")
    monkeypatch.setattr(nodes.paths.folders, "ASSETS", tmp_path)
    (models_dir / "loras" / "mine.safetensors").write_bytes(b"")
    users, bundled = nodes.paths.folders.adapter_names()
    assert (users, bundled) == ("mine.safetensors", f"{nodes.paths.folders.BUNDLED}/fixed")
    assert nodes.paths.folders.adapter_file(bundled) == file
    with pytest.raises(FileNotFoundError, match="models/loras"):
        nodes.paths.folders.adapter_file(f"{nodes.paths.folders.BUNDLED}/../fixed")


def test_empty_adapter_list_says_where_to_put_files(
    nodes: ModuleType, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nodes.paths.folders, "ASSETS", tmp_path)
    (name,) = nodes.paths.folders.adapter_names()
    assert "models/loras" in name
    with pytest.raises(FileNotFoundError, match="models/loras"):
        nodes.paths.folders.adapter_file(name)


def test_finds_by_name(nodes: ModuleType, models_dir: Path):
    model = pipeline(models_dir / "onereward" / "mine")
    separate = transformer(models_dir / "diffusers" / "other")
    assert nodes.paths.folders.model_folder("mine") == model
    assert nodes.paths.folders.transformer_path("other") == separate
    assert nodes.paths.folders.transformer_path(nodes.paths.folders.FROM_MODEL) is None


def test_follows_links_inside_a_model_folder(
    nodes: ModuleType, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
):
    elsewhere = pipeline(tmp_path_factory.mktemp("disk") / "flux")
    link = models_dir / "diffusers" / "flux"
    link.symlink_to(elsewhere, target_is_directory=True)
    assert nodes.paths.folders.model_folder("flux") == link


@pytest.mark.parametrize(
    "name", ["../secret", "x/../../secret", "", ".", "no-such", "a\0b"], ids=repr
)
def test_names_cannot_leave_the_model_folders(nodes: ModuleType, models_dir: Path, name: str):
    pipeline(models_dir / "secret")
    with pytest.raises(FileNotFoundError, match="choose one from the list"):
        nodes.paths.folders.model_folder(name)


def test_absolute_names_are_refused(nodes: ModuleType, models_dir: Path):
    secret = pipeline(models_dir / "secret")
    with pytest.raises(FileNotFoundError):
        nodes.paths.folders.model_folder(str(secret))
    with pytest.raises(FileNotFoundError):
        nodes.paths.folders.adapter_file(f"../secret/{os.path.basename(secret)}")


def test_judges_and_their_adapters_are_listed_wherever_they_are(
    nodes: ModuleType, models_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(models_dir / "output"))
    runs = models_dir / "output" / "onereward" / "judges"
    places = {
        "judge": [models_dir / "onereward" / "qwen", runs / "mine" / "judge"],
        "adapter": [models_dir / "onereward" / "likes-cats", runs / "other" / "adapter"],
    }
    for folder in places["judge"]:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
        (folder / "preprocessor_config.json").write_text("{}")
    for folder in places["adapter"]:
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    judges, adapters = nodes.paths.folders.judge_names(), nodes.paths.folders.judge_adapter_names()
    assert judges == [nodes.paths.folders.BUNDLED, "qwen", "mine/judge"]
    assert adapters == [nodes.paths.folders.NO_JUDGE_ADAPTER, "likes-cats", "other/adapter"]
    assert [nodes.paths.folders.judge_folder(name) for name in judges[1:]] == places["judge"]
    paths = [nodes.paths.folders.judge_adapter_folder(name) for name in adapters]
    assert paths == [None, *places["adapter"]]
    for name in ("../secret", "mine", "", str(places["judge"][0].parent)):
        with pytest.raises(FileNotFoundError):
            nodes.paths.folders.judge_folder(name)
        with pytest.raises(FileNotFoundError):
            nodes.paths.folders.judge_adapter_folder(name)


def test_stamp_changes_with_a_file(nodes: ModuleType, models_dir: Path):
    folder = pipeline(models_dir / "onereward" / "mine")
    before = nodes.paths.folders.stamp(folder)
    assert nodes.paths.folders.stamp(folder) == before
    os.utime(folder / "transformer" / "config.json", ns=(1, 1))
    assert nodes.paths.folders.stamp(folder) != before
    assert nodes.paths.folders.stamp(folder / "missing") == ()
    assert nodes.paths.folders.stamp(None) == ()


def test_registering_keeps_what_a_users_yaml_added(nodes: ModuleType, models_dir: Path):
    import folder_paths

    folder_paths.add_model_folder_path("onereward", "/data/models", is_default=True)
    nodes.paths.folders.register()
    paths, extensions = folder_paths.folder_names_and_paths["onereward"]
    assert paths[0] == "/data/models"
    assert os.path.join(folder_paths.models_dir, "onereward") in paths
    assert extensions == {".safetensors"}
