"""Which models are listed, and that no name leads out of the model folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from onereward.fill.config import COMPONENTS
from support import machine
from support.bundled_models import BUNDLED, bundled_models


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


COMMIT, NEWER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


def cached(root: Path, name: str, commit: str = COMMIT) -> Path:
    """Make a repository as the Hub's cache keeps it, with its main branch; return the snapshot."""
    folder = root / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    (folder / "snapshots" / commit).mkdir(parents=True)
    return folder / "snapshots" / commit


def link_files(source: Path, snapshot: Path) -> None:
    """Fill a snapshot with links to blobs, as the Hub's cache does."""
    for number, file in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        repository = next(p for p in snapshot.parents if p.name.startswith("models--"))
        blob = repository / "blobs" / str(number)
        shutil.copyfile(file, blob)
        target = snapshot / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(blob, target.parent))


def test_a_model_in_the_hubs_cache_is_the_plain_folders_bit_for_bit(
    nodes: ModuleType, models_dir: Path
):
    folders = nodes.paths.folders
    base = cached(models_dir / "diffusers", "black-forest-labs/FLUX.1-Fill-dev")
    link_files(BUNDLED, base)
    onereward = cached(models_dir / "onereward", "bytedance-research/OneReward")
    link_files(BUNDLED / "transformer", onereward / "flux.1-fill-dev-OneReward-transformer")
    model = "black-forest-labs/FLUX.1-Fill-dev"
    separate = "bytedance-research/OneReward/flux.1-fill-dev-OneReward-transformer"
    assert folders.model_names() == [folders.BUNDLED, model, folders.NO_FOLDER]
    assert folders.transformer_names() == [folders.FROM_MODEL, separate]
    assert folders.model_folder(model) == base
    # A name that an earlier version has saved is found as well.
    old = f"models--black-forest-labs--FLUX.1-Fill-dev/snapshots/{COMMIT}"
    assert folders.model_folder(old) == base
    node = nodes.OneRewardLoadModel.PREPARE_CLASS_CLONE({})
    loaded = node.execute(model=model, transformer=separate, precision="fp32").args[0]
    assert loaded.transformer_source.path.is_relative_to(onereward)
    for component in COMPONENTS:
        truth = dict(getattr(bundled_models(), component).module.named_parameters())
        values = dict(getattr(loaded, component).module.named_parameters())
        assert set(values) == set(truth)
        assert all(torch.equal(values[name], truth[name]) for name in truth), component


def test_the_cached_state_is_that_of_the_main_branch(nodes: ModuleType, models_dir: Path):
    root = models_dir / "onereward"
    newer = pipeline(cached(root, "owner/name", NEWER) / "x").parent
    main = pipeline(cached(root, "owner/name", COMMIT) / "x").parent
    os.utime(newer, (2**31, 2**31))
    assert nodes.paths.folders.model_folder("owner/name/x") == main / "x"
    (main.parents[1] / "refs" / "main").unlink()
    assert nodes.paths.folders.model_folder("owner/name/x") == newer / "x"


def test_a_plain_folder_keeps_its_name_beside_a_cached_one(nodes: ModuleType, models_dir: Path):
    plain = pipeline(models_dir / "onereward" / "owner" / "name")
    pipeline(cached(models_dir / "diffusers", "owner/name") / "x")
    link_files(plain, cached(models_dir / "onereward", "owner/name"))
    assert nodes.paths.folders.model_folder("owner/name") == plain


def test_judges_in_models_llm_are_found_whether_comfyui_knows_the_folder_or_not(
    nodes: ModuleType, models_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    import folder_paths

    folders = nodes.paths.folders
    judge = machine.ROOT / "assets" / "judge"
    if not (judge / "config.json").is_file():
        pytest.skip("the bundled judge is not in this checkout")
    assert "LLM" not in folder_paths.folder_names_and_paths
    shutil.copytree(judge, models_dir / "LLM" / "Qwen-VL" / "mine")
    link_files(judge, cached(models_dir / "LLM", "Qwen/Qwen2.5-VL-7B-Instruct"))
    elsewhere = models_dir / "elsewhere"
    shutil.copytree(judge, elsewhere / "other")
    names = ["Qwen-VL/mine", "Qwen/Qwen2.5-VL-7B-Instruct"]
    assert folders.judge_names() == [folders.BUNDLED, *names]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "LLM", ([str(elsewhere)], set[str]()))
    assert folders.judge_names() == [folders.BUNDLED, *names, "other"]
    with pytest.raises(FileNotFoundError, match="in models/onereward or models/LLM; choose"):
        folders.judge_folder("gone")
    load = nodes.OneRewardLoadJudge.PREPARE_CLASS_CLONE({}).execute
    truth = dict(
        load(judge=folders.BUNDLED, precision="fp32").args[0].component.module.state_dict()
    )
    for name in (*names, "other"):
        values = load(judge=name, precision="fp32").args[0].component.module.state_dict()
        assert set(values) == set(truth)
        assert all(torch.equal(values[key], truth[key]) for key in truth), name
