"""Every name that ComfyUI's own loader knows for a FLUX layer means the same layer here."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from onereward.fill.checkpoint.adapters import read_adapter
from onereward.fill.checkpoint.lora_file import (
    METADATA_KEY,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    left_out,
    read_lora,
)
from onereward.fill.io.files import TensorInfo
from support import checkpoints

RANK, ALPHA = 3, 5.0
Tensors = checkpoints.Tensors
SIZES: dict[str, Any] = {
    "in_channels": 24,
    "out_channels": 8,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
NATIVE: dict[str, Any] = {
    "image_model": "flux",
    "in_channels": 6,
    "out_channels": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "axes_dim": [4, 6, 6],
    "context_in_dim": 12,
    "vec_in_dim": 10,
    "guidance_embed": True,
    "patch_size": 2,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "qkv_bias": True,
}


@pytest.fixture(scope="module")
def base() -> dict[str, TensorInfo]:
    """The weights of a small transformer, by their shapes."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        module: Any = FluxTransformer2DModel(**SIZES)
    return {name: TensorInfo("F32", tuple(p.shape)) for name, p in module.named_parameters()}


@pytest.fixture(scope="module")
def native(comfy_base: Path) -> Any:
    """ComfyUI's own model of that size."""
    del comfy_base  # for the import of ComfyUI
    import comfy.model_base  # noqa: TID251 -- an independent truth
    import comfy.supported_models  # noqa: TID251

    config = comfy.supported_models.FluxInpaint(NATIVE)
    config.set_inference_dtype(torch.float32, None)
    return comfy.model_base.Flux(config)


def comfyui_added(native: Any, lora: Tensors) -> Tensors:
    """Return what the tensors of a LoRA file add to the native model's weights."""
    import comfy.lora  # noqa: TID251
    import comfy.lora_convert  # noqa: TID251
    import comfy.model_patcher  # noqa: TID251

    device = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(native, device, device)
    names = comfy.lora.model_lora_keys_unet(native, {})
    patches = comfy.lora.load_lora(lora, names, log_missing=False)
    patcher.add_patches(patches, 1.0)
    shapes = {key: value.shape for key, value in native.state_dict().items()}
    return {
        key.removeprefix("diffusion_model."): comfy.lora.calculate_weight(
            layer_patches, torch.zeros(shapes[key]), key, intermediate_dtype=torch.float32
        )
        for key, layer_patches in patcher.patches.items()
    }


def read_added(path: Path, base: dict[str, TensorInfo], lora: Tensors) -> Tensors:
    """Return the same of a file as we read it, in the original layout."""
    save_file({key: value.contiguous() for key, value in lora.items()}, path)
    weights = read_lora(path, base)
    added = {name: torch.zeros(info.shape) for name, info in base.items()}
    for key in weights:
        module, separator, _ = key.removeprefix("transformer.").partition(".lora_A")
        if separator:
            up = weights[f"transformer.{module}.lora_B.weight"]
            added[f"{module}.weight"] = up @ weights[key]
    original = checkpoints.original_transformer(added)
    return {key: value for key, value in original.items() if value.any()}


def assert_same(weights: Tensors, truth: Tensors, name: str) -> None:
    assert truth, name
    assert set(weights) == set(truth), name
    for key, value in truth.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")


def pair(rows: int, columns: int, name: str, ends: tuple[str, str], alpha: bool = True) -> Tensors:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    tensors = {
        name + ends[0]: torch.randn(RANK, columns, generator=generator),
        name + ends[1]: torch.randn(rows, RANK, generator=generator),
    }
    return tensors | ({f"{name}.alpha": torch.tensor(ALPHA)} if alpha else {})


KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")


def known_names(native: Any) -> dict[str, tuple[int, int]]:
    """Return ComfyUI's names for the matrices of the model, with rows and columns of each."""
    import comfy.lora  # noqa: TID251

    shapes = {key: value.shape for key, value in native.state_dict().items()}
    sizes = {}
    for name, target in comfy.lora.model_lora_keys_unet(native, {}).items():
        key, target_rows = (target, None) if isinstance(target, str) else (target[0], target[1])
        if len(shapes.get(key, ())) == 2:
            sizes[name] = (target_rows[2] if target_rows else shapes[key][0], shapes[key][1])
    return sizes


FAMILIES = {
    "lora_unet_": ("img_in", "final_layer_linear", "final_layer_adaLN_modulation_1"),
    "diffusion_model.": ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"),
    "transformer.": ("x_embedder", "norm_out.linear", "single_transformer_blocks.1.proj_mlp"),
    "lora_transformer_": ("transformer_blocks_0_ff_net_0_proj", "proj_out"),
    "lycoris_": ("time_text_embed_guidance_embedder_linear_2", "context_embedder"),
}
"""Prefixes of the key map, and some of the names that must be behind each."""


@pytest.mark.parametrize("prefix", FAMILIES)
def test_every_name_of_comfyuis_key_map_is_the_same_layer(
    prefix: str, native: Any, base: dict[str, TensorInfo], tmp_path: Path
):
    names = {n: size for n, size in known_names(native).items() if n.startswith(prefix)}
    assert {prefix + name for name in FAMILIES[prefix]} <= set(names)
    assert len(names) >= 9 + 2 * 10 + 2 * 3, "all matrices of the smaller naming"
    parts = {name: size for name, size in names.items() if name.endswith("linear1_qkv")}
    for group in (parts, {name: size for name, size in names.items() if name not in parts}):
        lora = {
            key: value
            for name, (rows, columns) in group.items()
            for key, value in pair(rows, columns, name, KOHYA).items()
        }
        if group:
            weights = read_added(tmp_path / "l.safetensors", base, lora)
            assert_same(weights, comfyui_added(native, lora), prefix)


def test_no_family_of_names_is_left_out(native: Any):
    assert {n for n in known_names(native) if not n.startswith(tuple(FAMILIES))} == set()


@pytest.mark.parametrize(
    "ends",
    [
        KOHYA,
        PEFT,
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_A", ".lora_B"),
        (".lora.down.weight", ".lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ],
    ids=lambda ends: ends[0],
)
@pytest.mark.parametrize("alpha", [True, False], ids=["alpha", "no alpha"])
def test_every_ending_of_comfyuis_loader_is_read(
    ends: tuple[str, str],
    alpha: bool,
    native: Any,
    base: dict[str, TensorInfo],
    tmp_path: Path,
):
    name = "diffusion_model.single_blocks.0.linear1"
    lora = pair(224, 32, name, ends, alpha)
    assert_same(
        read_added(tmp_path / "l.safetensors", base, lora), comfyui_added(native, lora), name
    )


def test_a_whole_file_is_the_sum_of_its_layers(
    native: Any, base: dict[str, TensorInfo], tmp_path: Path
):
    """As kohya writes it, text encoders and all, with ranks and alphas of their own."""
    lora: Tensors = {}
    for index, (name, (rows, columns)) in enumerate(known_names(native).items()):
        if name.startswith("lora_unet_"):
            layer = pair(rows, columns, name, KOHYA)
            layer[f"{name}.alpha"] = torch.tensor(1.0 + index)
            lora |= layer
    truth = comfyui_added(native, lora)
    lora |= pair(8, 8, "lora_te1_text_model_encoder_layers_0_mlp_fc1", KOHYA)
    lora |= pair(8, 8, "lora_te3_encoder_block_0_layer_0_SelfAttention_q", KOHYA)
    assert_same(read_added(tmp_path / "l.safetensors", base, lora), truth, "kohya")


def test_xlabs_processors_are_the_layers_they_work_on(
    native: Any, base: dict[str, TensorInfo], tmp_path: Path
):
    import comfy.lora_convert  # noqa: TID251

    ends, lora = (".down.weight", ".up.weight"), {}
    for index in range(2):
        double = f"double_blocks.{index}.processor"
        for stream in (1, 2):
            lora |= pair(96, 32, f"{double}.qkv_lora{stream}", ends, alpha=False)
            lora |= pair(32, 32, f"{double}.proj_lora{stream}", ends, alpha=False)
        lora |= pair(96, 32, f"single_blocks.{index}.processor.qkv_lora", ends, alpha=False)
        lora |= pair(32, 160, f"single_blocks.{index}.processor.proj_lora", ends, alpha=False)
    truth = comfyui_added(native, comfy.lora_convert.convert_uso_lora(dict(lora)))
    assert_same(read_added(tmp_path / "l.safetensors", base, lora), truth, "XLabs")


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "diffusion_model."])
@pytest.mark.parametrize(
    "name", ["transformer_blocks.1.attn.to_add_out", "double_blocks.1.txt_attn.proj"]
)
def test_prefixes_that_comfyui_does_not_know_change_nothing(
    prefix: str, name: str, native: Any, base: dict[str, TensorInfo], tmp_path: Path
):
    truth = comfyui_added(
        native, pair(32, 32, "diffusion_model.double_blocks.1.txt_attn.proj", PEFT)
    )
    seed = "diffusion_model.double_blocks.1.txt_attn.proj"
    lora = {
        key.replace(seed, prefix + name): value for key, value in pair(32, 32, seed, PEFT).items()
    }
    assert_same(read_added(tmp_path / "l.safetensors", base, lora), truth, prefix + name)


def test_diffusers_names_win_where_a_file_has_a_layer_twice(
    native: Any, base: dict[str, TensorInfo], tmp_path: Path
):
    name = "transformer.transformer_blocks.0.attn.to_add_out"
    lora = pair(32, 32, name, KOHYA)
    truth = comfyui_added(native, dict(lora))
    lora |= pair(32, 32, "lora_unet_double_blocks_0_txt_attn_proj", KOHYA)
    assert_same(read_added(tmp_path / "l.safetensors", base, lora), truth, name)


@pytest.fixture(scope="module", params=[False, True], ids=["alpha / r", "rslora"])
def trained(request: pytest.FixtureRequest) -> Any:
    """A transformer with an adapter of PEFT, whose scale is not in its tensors."""
    from diffusers import FluxTransformer2DModel
    from peft import LoraConfig

    module: Any = FluxTransformer2DModel(**SIZES)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "proj_out", "proj_mlp"],
        rank_pattern={"proj_mlp": 2},
        alpha_pattern={"proj_mlp": 7},
        use_rslora=request.param,
        init_lora_weights=False,
    )
    module.add_adapter(config, adapter_name="a")
    return module


def assert_equals_peft(path: Path, module: Any, base: dict[str, TensorInfo]) -> None:
    weights = read_lora(path, base)
    layers = [(n, m) for n, m in module.named_modules() if hasattr(m, "get_delta_weight")]
    assert len(layers) == 4 + 2 + 2 + 1
    for name, layer in layers:
        down, up = (weights[f"transformer.{name}.lora_{k}.weight"] for k in "AB")
        torch.testing.assert_close(up @ down, layer.get_delta_weight("a"), msg=name)


def test_the_scale_in_diffusers_header_is_pefts(
    trained: Any, base: dict[str, TensorInfo], tmp_path: Path
):
    from diffusers import FluxPipeline
    from peft.utils import get_peft_model_state_dict

    FluxPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers={**get_peft_model_state_dict(trained, adapter_name="a")},
        transformer_lora_adapter_metadata=trained.peft_config["a"].to_dict(),
    )
    (path,) = tmp_path.iterdir()
    assert_equals_peft(path, trained, base)


def test_the_scale_in_a_folder_of_peft_is_pefts(
    trained: Any, base: dict[str, TensorInfo], tmp_path: Path
):
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(trained, adapter_name="a")
    tensors = {f"base_model.model.{key}": value for key, value in state.items()}
    save_file(tensors, tmp_path / PEFT_WEIGHTS)
    trained.peft_config["a"].save_pretrained(str(tmp_path))
    assert_equals_peft(tmp_path / PEFT_WEIGHTS, trained, base)
    adapter = read_adapter(tmp_path, 1.0, base)
    assert adapter.path == tmp_path / PEFT_WEIGHTS
    # Another file name is no file of PEFT's folder.
    (tmp_path / PEFT_WEIGHTS).rename(tmp_path / "other.safetensors")
    plain = read_lora(tmp_path / "other.safetensors", base)
    assert not torch.equal(next(iter(plain.values())), torch.zeros(1))


def test_a_folder_of_peft_with_dora_is_refused(base: dict[str, TensorInfo], tmp_path: Path):
    save_file(pair(32, 12, "base_model.model.context_embedder", PEFT), tmp_path / PEFT_WEIGHTS)
    (tmp_path / PEFT_CONFIG).write_text('{"r": 3, "lora_alpha": 3, "use_dora": true}')
    with pytest.raises(ValueError, match=r"is a DoRA, .* OneReward From Native"):
        read_lora(tmp_path / PEFT_WEIGHTS, base)


OLD_NAMES = {
    "transformer.transformer_blocks.0.attn.processor.to_q_lora": "transformer_blocks.0.attn.to_q",
    "unet.transformer_blocks.1.attn.processor.to_out_lora": "transformer_blocks.1.attn.to_out.0",
    "unet.single_transformer_blocks.0.attn.to_k": "single_transformer_blocks.0.attn.to_k",
}


@pytest.mark.parametrize("name", OLD_NAMES)
def test_older_spellings_are_the_same_layer(name: str, base: dict[str, TensorInfo], tmp_path: Path):
    middle = "" if name.endswith("_lora") else ".lora"
    ends = (f"{middle}.down.weight", f"{middle}.up.weight")
    lora = pair(32, 32, name, ends, alpha=False)
    save_file(lora, tmp_path / "l.sft")
    weights = read_adapter(tmp_path / "l.sft", 1.0, base).weights
    keys = [f"transformer.{OLD_NAMES[name]}.lora_{end}.weight" for end in "AB"]
    assert set(weights) == set(keys)
    assert torch.equal(weights[keys[0]], lora[name + ends[0]])


def test_a_layer_spelled_as_a_convolution_is_a_matrix(base: dict[str, TensorInfo], tmp_path: Path):
    lora = pair(32, 12, "lora_unet_txt_in", KOHYA)
    save_file(lora, tmp_path / "a.safetensors")
    save_file(
        {k: v[..., None, None].contiguous() if v.ndim == 2 else v for k, v in lora.items()},
        tmp_path / "b.safetensors",
    )
    plain, spelled = (read_lora(tmp_path / f"{name}.safetensors", base) for name in "ab")
    assert set(plain) == set(spelled)
    assert all(torch.equal(plain[key], spelled[key]) for key in plain)


def without(end: str) -> Callable[[Tensors], Tensors]:
    return lambda lora: {key: value for key, value in lora.items() if not key.endswith(end)}


BAD: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "half a pair": (without("lora_up.weight"), "has only alpha and down of .* a pair is needed"),
    "dora": (lambda lora: lora | {"lora_unet_txt_in.dora_scale": torch.ones(32)}, "is a DoRA"),
    "magnitude": (lambda lora: lora | {"lora_unet_txt_in.magnitude": torch.ones(32)}, "is a DoRA"),
    "not finite": (
        lambda lora: lora | {"lora_unet_txt_in.lora_up.weight": torch.full((32, RANK), torch.nan)},
        "no finite numbers",
    ),
    "another size": (lambda _: pair(99, 12, "lora_unet_txt_in", KOHYA), "has 32 rows here, .* 99"),
    "another rank": (
        lambda lora: lora | {"lora_unet_txt_in.lora_up.weight": torch.ones(32, RANK + 1)},
        "do not fit together",
    ),
    "no rank": (
        lambda lora: (
            lora
            | {
                "lora_unet_txt_in.lora_down.weight": torch.ones(0, 12),
                "lora_unet_txt_in.lora_up.weight": torch.ones(32, 0),
            }
        ),
        "do not fit together",
    ),
    "many alphas": (
        lambda lora: lora | {"lora_unet_txt_in.alpha": torch.ones(3)},
        r"an alpha of \[3\] .* but one number is expected",
    ),
    "another model": (lambda _: pair(32, 32, "lora_unet_x", KOHYA), "has no layer x"),
}


@pytest.mark.parametrize("defect", BAD)
def test_what_cannot_be_loaded_is_named(defect: str, base: dict[str, TensorInfo], tmp_path: Path):
    change, message = BAD[defect]
    path = tmp_path / "mine.safetensors"
    save_file(change(pair(32, 12, "lora_unet_txt_in", KOHYA)), path)
    with pytest.raises(ValueError, match=f"mine.safetensors .*{message}"):
        read_lora(path, base)


@pytest.mark.parametrize("notes", ["{", "[1]", "7"])
def test_damaged_notes_are_said(notes: str, base: dict[str, TensorInfo], tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    save_file(pair(32, 12, "lora_unet_txt_in", KOHYA), path, {METADATA_KEY: notes})
    with pytest.raises(ValueError, match=r"mine\.safetensors has damaged notes"):
        read_lora(path, base)


def test_tensors_without_use_are_named(base: dict[str, TensorInfo], tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    lora = pair(32, 12, "diffusion_model.txt_in", KOHYA)
    save_file(lora, path)
    assert left_out(path) is None
    lora["diffusion_model.txt_in.diff_b"] = torch.ones(32)
    lora |= pair(8, 8, "lora_te1_text_model_encoder_layers_0_mlp_fc1", KOHYA)
    save_file(lora, path)
    assert len(read_lora(path, base)) == 2
    note = left_out(path)
    assert note is not None
    assert "3 tensors for text encoders and 1 that are no low-rank pairs" in note
    assert "diffusion_model.txt_in.diff_b" in note
