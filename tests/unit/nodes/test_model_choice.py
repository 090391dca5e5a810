"""What the loader takes where nothing was chosen, and what it says where nothing fits."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from onereward.fill.config import COMPONENTS
from support.bundled_models import BUNDLED, bundled_models
from support.template_files import CLIP, T5, TRANSFORMER, VAE, WRITERS

ALL = (TRANSFORMER, VAE, CLIP, T5)
NAME = TRANSFORMER.partition("/")[2]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files under the published names, in ComfyUI's folders."""
    root = tmp_path_factory.mktemp("published")
    for file in ALL:
        (root / file).parent.mkdir(exist_ok=True)
        WRITERS[file](root / file)
    return root


@pytest.fixture
def put(models_dir: Path, published: Path):
    """Return what puts a published file into its models folder, under any name."""

    def link(file: str, name: str = "") -> Path:
        path = models_dir / file.partition("/")[0] / (name or file.partition("/")[2])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(published / file)
        return path

    return link


def defaults(nodes: ModuleType) -> tuple[str, str]:
    schema = nodes.OneRewardLoadModel.define_schema()
    return tuple(item.default for item in schema.inputs[:2])


def load(nodes: ModuleType, **values: Any) -> Any:
    node = nodes.OneRewardLoadModel.PREPARE_CLASS_CLONE({})
    values.setdefault("model", nodes.paths.folders.NO_FOLDER)
    return node.execute(**values)


def refusal(nodes: ModuleType, **values: Any) -> str:
    """Return what is said before the queue; nothing if the choices are accepted."""
    values = {
        "model": nodes.paths.folders.NO_FOLDER,
        "transformer": nodes.paths.folders.FROM_MODEL,
    } | values
    try:
        answer = nodes.OneRewardLoadModel.validate_inputs(**values)
    except (OSError, ValueError) as error:
        return str(error)
    return "" if answer is True else str(answer)


def files_of(models: Any) -> dict[str, Path]:
    return {name: source.path for name, source in models.sources.items()}


def test_partners_are_found_and_said(nodes: ModuleType, models_dir: Path, put: Any):
    paths = [put(file) for file in ALL]
    assert refusal(nodes, transformer=NAME) == ""
    output = load(nodes, transformer=NAME)
    assert list(files_of(output.args[0]).values()) == paths
    note = "found for this model: ae.safetensors (vae), clip_l.safetensors (clip), "
    assert note + "t5xxl_fp8_e4m3fn_scaled.safetensors (t5)" in output.ui["text"]
    assert not any("demo" in line for line in output.ui["text"])
    assert output.args[0].recipe.name == "OneReward"
    assert list(files_of(load(nodes).args[0]).values()) == paths, "the transformer is found, too"


@pytest.mark.parametrize(
    ("what", "worse", "better"),
    [
        ("vae", ["other.safetensors"], "flux_vae.safetensors"),
        ("vae", ["flux_vae.safetensors", "bae.safetensors"], "FLUX1/ae.sft"),
        ("clip", ["ViT-L-14-TE-only-HF-format.safetensors"], "clip_l.safetensors"),
        ("clip", ["a.safetensors"], "ViT-L-14-TE-only-HF-format.safetensors"),
        ("clip", ["clip_l_hidream.safetensors"], "clip_l.safetensors"),
        ("t5", ["t5xxl_fp16.safetensors"], "t5xxl_fp8_e4m3fn.safetensors"),
        ("t5", ["t5xxl_fp8_e4m3fn.safetensors"], "t5xxl_fp8_e4m3fn_scaled.safetensors"),
        ("t5", ["t5xxl.safetensors", "encoder.safetensors"], "t5xxl_fp16.safetensors"),
    ],
)
def test_the_best_name_among_those_that_fit_is_taken(
    nodes: ModuleType, put: Any, what: str, worse: list[str], better: str
):
    parts = {"vae": (VAE, "vae"), "clip": (CLIP, "text_encoder"), "t5": (T5, "text_encoder_2")}
    file, part = parts[what]
    for partner in set(ALL) - {file}:
        put(partner)
    paths = {name: put(file, name) for name in [*worse, better]}
    assert files_of(load(nodes, transformer=NAME).args[0])[part] == paths[better]


def test_content_counts_before_the_name(nodes: ModuleType, models_dir: Path, put: Any):
    put(TRANSFORMER)
    put(VAE, "renamed.safetensors")
    put(CLIP, "first.safetensors")
    put(T5, "second.safetensors")
    # Encoders of the bundled model's size, a VAE of no file's, and nonsense under the best names.
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "t5xxl_fp8_scaled")):
        file = next((BUNDLED / part).glob("*.safetensors"))
        if part == "text_encoder":  # as wide as that of the published file's stand-in
            tensors = {k: torch.cat([v, v], -1) for k, v in load_file(file).items()}
            save_file(tensors, models_dir / "text_encoders" / f"{name}.safetensors")
        else:
            shutil.copyfile(file, models_dir / "text_encoders" / f"{name}.safetensors")
    (models_dir / "vae" / "ae.safetensors").write_bytes(b"<html>not found</html>")
    names = {part: path.name for part, path in files_of(load(nodes).args[0]).items()}
    assert names == {
        "transformer": NAME,
        "vae": "renamed.safetensors",
        "text_encoder": "first.safetensors",
        "text_encoder_2": "second.safetensors",
    }


@pytest.mark.parametrize("missing", [VAE, CLIP, T5, TRANSFORMER])
def test_a_missing_file_is_named_with_its_folder(nodes: ModuleType, put: Any, missing: str):
    for file in set(ALL) - {missing}:
        put(file)
    folder, name = missing.split("/")
    text = refusal(nodes)
    assert f"{name} (huggingface.co/" in text
    assert f"into models/{folder}" in text
    assert all(file.partition("/")[2] not in text for file in set(ALL) - {missing})
    assert "\n" not in text
    with pytest.raises(FileNotFoundError) as caught:
        load(nodes)
    assert str(caught.value) == text
    assert nodes.OneRewardLoadModel.fingerprint_inputs(model=nodes.paths.folders.NO_FOLDER) == ()


def test_all_missing_files_are_named_at_once(nodes: ModuleType, models_dir: Path):
    text = refusal(nodes)
    assert all(file.partition("/")[2] in text for file in ALL)


def test_a_vae_that_may_be_that_of_stable_diffusion_3_is_not_guessed(nodes: ModuleType, put: Any):
    for file in (TRANSFORMER, CLIP, T5):
        put(file)
    put(VAE, "sd3_vae.safetensors")
    assert "ae.safetensors" in refusal(nodes)


def test_a_real_transformer_never_runs_on_the_demo_models_parts(
    nodes: ModuleType, models_dir: Path, put: Any
):
    bundled = nodes.paths.folders.BUNDLED
    put(TRANSFORMER)
    text = refusal(nodes, model=bundled, transformer=NAME)
    assert "no file for vae, clip and t5, as the model's own is for another transformer" in text
    put(VAE)
    put(CLIP)
    # Its CLIP is as wide as the demo model's, so it would fit.
    assert "no file for t5, as" in refusal(nodes, model=bundled, transformer=NAME)
    put(T5)
    models = load(nodes, model=bundled, transformer=NAME).args[0]
    assert {path.is_relative_to(models_dir) for path in files_of(models).values()} == {True}
    assert models.config.folder == ""
    assert (models.recipe.name, models.recipe.demo_side) == ("OneReward", 0)


def test_a_toy_transformer_keeps_the_demo_models_parts(
    nodes: ModuleType, models_dir: Path, put: Any
):
    for file in (VAE, CLIP, T5):
        put(file)
    file = next((BUNDLED / "transformer").glob("*.safetensors"))
    shutil.copyfile(file, models_dir / "diffusion_models" / "toy.safetensors")
    output = load(nodes, model=nodes.paths.folders.BUNDLED, transformer="toy.safetensors")
    paths = files_of(output.args[0])
    assert paths.pop("transformer").name == "toy.safetensors"
    assert {path.parent for path in paths.values()} == {BUNDLED}
    assert any("this is the bundled demo model" in line for line in output.ui["text"])
    assert not any("found for this model" in line for line in output.ui["text"])


@pytest.fixture(scope="session")
def all_in_one(published: Path) -> Path:
    """The published files in one, under ComfyUI's prefixes."""
    prefixes = ("model.diffusion_model", "vae")
    prefixes += ("text_encoders.clip_l.transformer", "text_encoders.t5xxl.transformer")
    tensors = {
        f"{prefix}.{key}": value
        for prefix, file in zip(prefixes, ALL, strict=True)
        for key, value in load_file(published / file).items()
    }
    path = published / "all.safetensors"
    save_file(tensors, path)
    return path


def test_a_checkpoint_brings_its_own_parts(
    nodes: ModuleType, models_dir: Path, put: Any, all_in_one: Path
):
    folders = nodes.paths.folders
    folder = models_dir / "checkpoints" / "flux"
    folder.mkdir()
    (folder / "onereward.safetensors").symlink_to(all_in_one)
    (folder / "vae.safetensors").symlink_to(all_in_one.parent / VAE)
    (folder / "flux1-dev.safetensors").write_bytes(b"no model")
    name = "checkpoints/flux/onereward.safetensors"
    assert folders.transformer_names() == [folders.FROM_MODEL, name]
    assert defaults(nodes) == (folders.NO_FOLDER, name)
    for file in (VAE, CLIP, T5):
        put(file)
    assert refusal(nodes, transformer=name) == ""
    output = load(nodes, transformer=name, precision="fp32")
    models = output.args[0]
    assert set(files_of(models).values()) == {folder / "onereward.safetensors"}
    assert models.recipe.name == "OneReward"
    put(TRANSFORMER)
    truth = load(nodes, transformer=NAME, precision="fp32").args[0]
    for part in COMPONENTS:
        values = getattr(models, part).module.state_dict()
        expected = getattr(truth, part).module.state_dict()
        assert set(values) == set(expected)
        assert all(torch.equal(values[key], expected[key]) for key in expected), part
    with pytest.raises(FileNotFoundError, match="choose one from the list"):
        folders.transformer_path("checkpoints/../flux/no.safetensors")


def test_a_file_in_diffusion_models_keeps_its_name(
    nodes: ModuleType, models_dir: Path, put: Any, all_in_one: Path
):
    (models_dir / "checkpoints" / "flux.safetensors").symlink_to(all_in_one)
    path = put(TRANSFORMER, "checkpoints/flux.safetensors")
    assert nodes.paths.folders.transformer_path("checkpoints/flux.safetensors") == path
    assert nodes.paths.folders.transformer_names()[1:] == ["checkpoints/flux.safetensors"]


def test_what_a_folder_lacks_is_found(nodes: ModuleType, models_dir: Path, put: Any):
    folder = models_dir / "diffusers" / "mine"
    shutil.copytree(BUNDLED, folder)
    shutil.rmtree(folder / "text_encoder_2")
    put(T5)  # of another size
    source = next((BUNDLED / "text_encoder_2").glob("*.safetensors"))
    shutil.copyfile(source, models_dir / "text_encoders" / "t5.safetensors")
    assert refusal(nodes, model="mine") == ""
    models = load(nodes, model="mine").args[0]
    assert files_of(models)["text_encoder_2"].name == "t5.safetensors"
    assert models.tokenizer_2("a red circle") == bundled_models().tokenizer_2("a red circle")


def test_something_else_as_transformer_is_named(nodes: ModuleType, models_dir: Path):
    lora = {"transformer.x.lora_A.weight": torch.zeros(2, 2)}
    save_file(lora, models_dir / "diffusion_models" / "lora.safetensors")
    text = refusal(nodes, transformer="lora.safetensors")
    assert "lora.safetensors is a LoRA" in text


def test_another_flux_is_refused_for_what_it_is(nodes: ModuleType, models_dir: Path, put: Any):
    for file in (VAE, CLIP, T5):
        put(file)
    tensors = load_file(put(TRANSFORMER))
    tensors["x_embedder.weight"] = tensors["x_embedder.weight"][:, :64].clone()
    save_file(tensors, models_dir / "diffusion_models" / "dev.safetensors")
    with pytest.raises(ValueError, match=r"has 64 input channels \(as FLUX\.1-dev, "):
        load(nodes, transformer="dev.safetensors")


@pytest.mark.parametrize("linked", ["model", "transformer", "vae", "t5", "allow_download"])
def test_linked_values_are_not_judged_before_they_are_known(
    nodes: ModuleType, models_dir: Path, linked: str
):
    assert refusal(nodes, **{linked: None}) == ""
    assert refusal(nodes) != ""


def test_a_choice_that_is_gone_is_refused_before_the_queue(nodes: ModuleType, models_dir: Path):
    assert "model 'gone' is not a folder" in refusal(nodes, model="gone")
    text = refusal(nodes, transformer="gone.safetensors")
    assert "not a file in models/diffusion_models; put it there" in text
    assert "allow_download is off" in refusal(nodes, hub_id="owner/name")


def test_the_default_is_the_demo_model_where_there_is_no_other(
    nodes: ModuleType, models_dir: Path, put: Any
):
    folders = nodes.paths.folders
    assert defaults(nodes) == (folders.BUNDLED, folders.FROM_MODEL)
    # Nor is a copy of it a real one, or a file that only has such a name.
    shutil.copytree(BUNDLED, models_dir / "diffusers" / "copy")
    (models_dir / "diffusion_models" / "flux1-fill-onereward.safetensors").write_bytes(b"")
    put(VAE)
    assert defaults(nodes) == (folders.BUNDLED, folders.FROM_MODEL)


def test_the_default_is_a_real_model_where_one_is(nodes: ModuleType, models_dir: Path, put: Any):
    folders = nodes.paths.folders
    gguf = models_dir / "diffusion_models" / "a-much-longer-name-of-flux1-fill-dev-Q8_0.gguf"
    gguf.write_bytes(b"GGUF")  # it is not opened for this
    assert defaults(nodes) == (folders.NO_FOLDER, gguf.name)
    put(TRANSFORMER, "flux1-fill-dev.safetensors")
    assert defaults(nodes) == (folders.NO_FOLDER, "flux1-fill-dev.safetensors")
    put(TRANSFORMER, "flux.1-fill-dev-OneRewardDynamic-transformer_fp8.safetensors")
    put(TRANSFORMER)
    assert defaults(nodes) == (folders.NO_FOLDER, NAME)
    shutil.copytree(BUNDLED, models_dir / "diffusers" / "FLUX.1-Fill-dev")
    (models_dir / "diffusers" / "FLUX.1-Fill-dev" / "recipe.json").unlink()
    assert defaults(nodes) == ("FLUX.1-Fill-dev", NAME)
    for file in (models_dir / "diffusion_models").iterdir():
        file.unlink()
    assert defaults(nodes) == ("FLUX.1-Fill-dev", folders.FROM_MODEL)


def test_rare_inputs_are_marked_where_comfyui_knows_how(nodes: ModuleType, models_dir: Path):
    from comfy_api.latest import io

    rare = {"hub_id", "allow_download", "kernels", "offload", "memory_limit"}
    inputs = nodes.OneRewardLoadModel.define_schema().inputs
    marked = {item.id for item in inputs if getattr(item, "advanced", None)}
    assert marked == (rare if hasattr(io.Float.Input("x"), "advanced") else set())
    assert bundled_models().recipe.demo_side
