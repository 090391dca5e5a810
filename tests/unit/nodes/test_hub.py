"""Downloads happen only when allowed, and failures say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.recording_host import RecordingHost


@pytest.mark.parametrize(
    "hub_id", ["FLUX", "../../etc", "a/b/c", "a/..", "/b", "a/", "https://hub/a/b", "a b/c"]
)
def test_malformed_ids_are_refused(nodes: ModuleType, hub_id: str):
    with pytest.raises(ValueError, match="owner/name"):
        nodes.paths.hub.check_download(hub_id, allow_download=True)


def test_nothing_is_downloaded_without_the_switch(nodes: ModuleType):
    with pytest.raises(ValueError, match="allow_download is off"):
        nodes.paths.hub.check_download("owner/name", allow_download=False)


def fake_hub(monkeypatch: pytest.MonkeyPatch, act: Callable[..., Any]) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", act)


def test_takes_only_safe_files_of_the_model(
    nodes: ModuleType, models_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub.utils import filter_repo_objects

    published = [
        *("model_index.json", "flux1-fill-dev.safetensors", "ae.safetensors", "README.md"),
        *("transformer/config.json", "transformer/diffusion_pytorch_model-00001.safetensors"),
        *("text_encoder/pytorch_model.bin", "tokenizer/merges.txt", "tokenizer_2/spiece.model"),
        *("scripts/run.py", "vae/diffusion_pytorch_model.safetensors"),
    ]
    files: list[str] = []

    def act(hub_id: str, local_dir: Path, allow_patterns: list[str]) -> None:
        assert hub_id == "owner/name"
        files.extend(filter_repo_objects(published, allow_patterns=allow_patterns))
        local_dir.mkdir(parents=True)
        (local_dir / "model_index.json").write_text("{}", encoding="utf-8")

    fake_hub(monkeypatch, act)
    host = RecordingHost()
    nodes.paths.hub.download("owner/name", host)
    folder = nodes.paths.folders.download_folder("owner/name")
    assert folder == models_dir / "onereward" / "owner--name"
    assert (folder / "model_index.json").is_file()
    assert files == [
        *("model_index.json", "transformer/config.json"),
        "transformer/diffusion_pytorch_model-00001.safetensors",
        *("tokenizer/merges.txt", "tokenizer_2/spiece.model"),
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert "owner/name" in host.lines[0]


def test_being_offline_is_one_sentence(nodes: ModuleType, models_dir: Path):
    with pytest.raises(RuntimeError, match=r"could not be downloaded .* check the connection"):
        nodes.paths.hub.download("owner/name", RecordingHost())


def test_a_repository_without_a_whole_model_says_how_to_go_on(
    nodes: ModuleType, models_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    fake_hub(monkeypatch, lambda *_args, **_kwargs: None)
    with pytest.raises(FileNotFoundError, match="choose its folder as transformer"):
        nodes.paths.hub.download("owner/name", RecordingHost())
