"""Single files of a fill model: listed, found, and loaded in place of a folder's parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from support.bundled_models import BUNDLED

PARTS = {
    "transformer": ("transformer", "diffusion_models"),
    "t5": ("text_encoder_2", "text_encoders"),
    "vae": ("vae", "vae"),
}


@pytest.fixture
def files(models_dir: Path) -> dict[str, str]:
    """Put parts of the bundled model where ComfyUI keeps single files; return their names."""
    for what, (part, folder) in PARTS.items():
        target = models_dir / folder / "my files" / f"{what} ü.safetensors"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(next((BUNDLED / part).glob("*.safetensors")), target)
    (models_dir / "diffusion_models" / "fill-Q4_K_S.gguf").write_bytes(b"GGUF")
    (models_dir / "diffusion_models" / "old.ckpt").write_bytes(b"")
    return {what: f"my files/{what} ü.safetensors" for what in PARTS}


def test_files_are_listed_gguf_included(nodes: ModuleType, files: dict[str, str]):
    assert nodes.paths.folders.transformer_names() == [
        nodes.paths.folders.FROM_MODEL,
        *("fill-Q4_K_S.gguf", files["transformer"]),
    ]
    assert nodes.paths.model_files.file_names("t5") == [files["t5"]]


def test_files_replace_the_parts_of_a_folder(nodes: ModuleType, files: dict[str, str]):
    load = nodes.OneRewardLoadModel.PREPARE_CLASS_CLONE({}).execute
    models = load(model=nodes.paths.folders.BUNDLED, precision="fp32", **files).args[0]
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        assert not getattr(models, part).is_loaded, "nothing is read by a loader"
    assert "my files" in str(models.transformer_source.path)
    assert models.text_encoder_2.module.shared.weight.shape[0] == models.tokenizer_2.vocab_size


def test_a_changed_file_changes_the_fingerprint(
    nodes: ModuleType, models_dir: Path, files: dict[str, str]
):
    values = {"model": nodes.paths.folders.BUNDLED, **files}
    before = nodes.OneRewardLoadModel.fingerprint_inputs(**values)
    assert nodes.OneRewardLoadModel.fingerprint_inputs(**values) == before
    (models_dir / "vae" / files["vae"]).touch()
    assert nodes.OneRewardLoadModel.fingerprint_inputs(**values) != before


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "no-such.gguf", "my files"], ids=repr
)
def test_names_cannot_leave_their_folder(
    nodes: ModuleType, models_dir: Path, files: dict[str, str], name: str
):
    (models_dir / "secret.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="choose one from the list"):
        nodes.paths.model_files.model_file("vae", name)


def test_comfyuis_own_tokenizers_are_those_of_flux(nodes: ModuleType):
    from transformers import AutoTokenizer

    clip, t5 = (
        AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        for folder in nodes.paths.model_files.tokenizer_folders()
    )
    assert clip("a cat").input_ids == [49406, 320, 2368, 49407]
    assert t5("a cat").input_ids == [3, 9, 1712, 1]
