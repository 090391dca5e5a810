"""Files that are no component of a fill model: refused from the header, in one sentence."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from onereward.fill.checkpoint.adapters import read_adapter
from onereward.fill.checkpoint.component import FileComponent
from onereward.fill.checkpoint.stored_tensors import Reader
from onereward.fill.config import ModelConfig
from onereward.fill.models import load_fill_models
from support import checkpoints
from support.bundled_models import BUNDLED

CONFIG = json.loads((BUNDLED / "transformer" / "config.json").read_text())


@pytest.fixture(autouse=True)
def no_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "rows", lambda *_: pytest.fail("read a weight"))


def tensors_named(*names: str) -> checkpoints.Tensors:
    return {name: torch.zeros(4, 4) for name in names}


FOREIGN = {
    "sdxl": (tensors_named("input_blocks.0.0.weight"), "an SDXL or Stable Diffusion model"),
    "sd3": (tensors_named("joint_blocks.0.x_block.attn.qkv.weight"), "Stable Diffusion 3"),
    "flux2": (tensors_named("double_stream_modulation_img.lin.weight"), "FLUX.2"),
    "lora": (tensors_named("lora_unet_x.lora_down.weight"), "a LoRA, but .* Load Adapter"),
    "lora of xlabs": (
        tensors_named("double_blocks.0.processor.qkv_lora1.down.weight"),
        "a LoRA, but .* Load Adapter",
    ),
    "t5": (tensors_named("encoder.block.0.layer.0.SelfAttention.q.weight"), "is the T5 encoder"),
    "llm": (tensors_named("model.layers.0.self_attn.q_proj.weight"), "a language model"),
    "unknown": (tensors_named("something"), "unknown kind .*'something'"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_named(name: str, tmp_path: Path):
    tensors, words = FOREIGN[name]
    path = checkpoints.save(tmp_path / f"{name}.safetensors", tensors)
    with pytest.raises(ValueError, match=words) as caught:
        FileComponent("transformer", path)
    assert "FLUX.1 Fill transformer" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("channels", "family"), [(64, "FLUX.1-dev, .* Kontext"), (128, "Depth and Canny")]
)
def test_another_flux_is_told_by_its_input_channels(
    channels: int, family: str, tmp_path: Path, file_tensors: Any
):
    tensors = dict(file_tensors["transformer"])
    tensors["img_in.weight"] = torch.zeros(tensors["img_in.weight"].shape[0], channels // 2)
    path = checkpoints.save(tmp_path / "dev.safetensors", tensors)
    with pytest.raises(ValueError, match=f"{channels // 2} input channels .as .*{family}"):
        load_fill_models(
            ModelConfig(folder=str(BUNDLED), transformer=str(path)), torch.device("cpu")
        )


def test_a_clip_of_another_size_is_refused(tmp_path: Path, file_tensors: Any):
    wide = {
        key: torch.cat([value, value], dim=-1)
        for key, value in file_tensors["text_encoder"].items()
    }
    path = checkpoints.save(tmp_path / "clip_g.safetensors", wide)
    with pytest.raises(ValueError, match=r"clip_g\.safetensors|text_encoder is 128 wide"):
        load_fill_models(
            ModelConfig(folder=str(BUNDLED), text_encoder=str(path)), torch.device("cpu")
        )


def test_a_vae_of_another_family_is_refused(tmp_path: Path, file_tensors: Any):
    path = checkpoints.save(tmp_path / "small.safetensors", file_tensors["vae"])
    with pytest.raises(ValueError, match=r"8 latent channels .* FLUX\.1 has 16"):
        FileComponent("vae", path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def lie_about_a_shape(path: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["img_in.weight"]["shape"] = [1 << 20, 1 << 20]

    rewrite_header(path, change)


def lie_about_an_offset(path: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        start, stop = header["img_in.weight"]["data_offsets"]
        header["img_in.weight"]["data_offsets"] = [start + (1 << 40), stop + (1 << 40)]

    rewrite_header(path, change)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cut off or damaged"),
        (lie_about_a_shape, "cannot be"),
        (lie_about_an_offset, "cut off or damaged"),
        (lambda path: path.write_bytes(b"\x80\x02pickle"), "no safetensors file"),
    ],
    ids=["truncated", "shape", "offset", "pickle"],
)
def test_a_damaged_file_is_refused(
    damage: Callable[[Path], None], message: str, tmp_path: Path, file_tensors: Any
):
    path = checkpoints.save(tmp_path / "fill.safetensors", file_tensors["transformer"])
    damage(path)
    with pytest.raises(ValueError, match=message):
        FileComponent("transformer", path, CONFIG)


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS: dict[str, Any] = {
    "list": [],
    "number": 1234,
    "null": None,
    "text as notes": {"__metadata__": "x", "img_in.weight": ENTRY},
    "null as notes": {"__metadata__": None, "img_in.weight": ENTRY},
    "negative shape": {"img_in.weight": ENTRY | {"shape": [-1, -1]}},
    "fraction as shape": {"img_in.weight": ENTRY | {"shape": [1.0]}},
    "fraction as offset": {"img_in.weight": ENTRY | {"data_offsets": [0, 4.0]}},
    "three offsets": {"img_in.weight": ENTRY | {"data_offsets": [0, 4, 8]}},
    "no entry": {"img_in.weight": 4},
}


@pytest.mark.parametrize("name", [*HEADERS, "nested"])
def test_a_header_that_is_none_is_refused(name: str, tmp_path: Path):
    text = json.dumps(HEADERS[name]) if name in HEADERS else "[" * 200_000
    path = tmp_path / "fill.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(4))
    with pytest.raises(ValueError, match=r"has a damaged header.*; download it again$") as caught:
        FileComponent("transformer", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [100, 3000, 60000])
def test_a_truncated_gguf_file_is_refused(keep: int, tmp_path: Path, write: Any):
    path = tmp_path / "cut.gguf"
    path.write_bytes(write("transformer", "Q8_0").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut\.gguf is damaged, cut off"):
        FileComponent("transformer", path, CONFIG)


LIST = 9
"""GGUF's number for one, in front of the type and the number of its entries."""
GGUF_LIES = {
    "list of bytes": (struct.pack("<IIQ", LIST, 0, 1 << 40), "a list of 1,099,511,627,776 entries"),
    "list of words": (struct.pack("<IIQ", LIST, 8, 1 << 20), "it ends too early"),
    "lists in lists": (struct.pack("<I", LIST) + struct.pack("<IQ", LIST, 1) * 3000, "recursion"),
    "unknown type": (struct.pack("<I", 77), "77.? is not a valid GGUFValueType"),
}


@pytest.mark.parametrize("name", GGUF_LIES)
def test_a_lie_in_the_metadata_of_a_gguf_file_is_refused(name: str, tmp_path: Path):
    lie, reason = GGUF_LIES[name]
    path = tmp_path / "lie.gguf"
    key = struct.pack("<Q", 3) + b"key"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + lie + bytes(1000))
    with pytest.raises(ValueError, match=rf"lie\.gguf is damaged.*{reason}.*; download it again"):
        FileComponent("transformer", path, CONFIG)


@pytest.mark.parametrize(
    ("shape", "kind", "offset"),
    [((1 << 20, 1 << 20), 0, 0), ((1 << 32, 1 << 32), 0, 0), ((4, 4), 0, 1 << 40), ((4, 4), 99, 0)],
    ids=["shape", "overflow", "offset", "type"],
)
def test_a_lie_about_a_tensor_of_a_gguf_file_is_refused(
    shape: tuple[int, int], kind: int, offset: int, tmp_path: Path
):
    path = tmp_path / "lie.gguf"
    name = b"img_in.weight"
    entry = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, *shape, kind, offset)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + entry + bytes(200))
    with pytest.raises(ValueError, match=r"lie\.gguf is damaged, cut off .*; download it again"):
        FileComponent("transformer", path, CONFIG)


def test_a_gguf_type_that_cannot_be_expanded_is_refused(tmp_path: Path, file_tensors: Any):
    path = tmp_path / "ternary.gguf"
    tensors = {k: v for k, v in file_tensors["transformer"].items() if "img_in" in k}
    padded = {key: torch.zeros(2, 256) for key in tensors}
    checkpoints.write_gguf(path, padded, "TQ2_0")
    with pytest.raises(ValueError, match="as TQ2_0, which cannot be expanded here"):
        FileComponent("transformer", path, CONFIG)


def test_other_containers_are_refused_unopened(tmp_path: Path):
    path = tmp_path / "fill.ckpt"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="neither safetensors nor GGUF"):
        FileComponent("transformer", path)


def test_integers_with_a_scale_of_their_own_are_refused(tmp_path: Path, file_tensors: Any):
    tensors = dict(file_tensors["transformer"])
    tensors["img_in.weight"] = tensors["img_in.weight"].to(torch.int8)
    path = checkpoints.save(tmp_path / "int8.safetensors", tensors)
    with pytest.raises(ValueError, match=r"img_in\.weight as I8, which cannot be read"):
        FileComponent("transformer", path, CONFIG)


U8 = torch.zeros(4, dtype=torch.uint8)
BLOCK = "double_blocks.0.img_attn.qkv.weight"
PACKINGS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "bitsandbytes": (
        {
            BLOCK: torch.zeros(96, 1, dtype=torch.uint8),
            f"{BLOCK}.quant_state.bitsandbytes__nf4": U8,
        },
        "packed by bitsandbytes",
    ),
    "nvfp4": (
        {BLOCK: torch.zeros(6, 4, dtype=torch.uint8), f"{BLOCK}_scale_2": torch.tensor(1.0)},
        "packed as NVFP4",
    ),
    "nunchaku": (
        {
            "transformer_blocks.0.qkv_proj.qweight": torch.zeros(6, 4, dtype=torch.int8),
            "transformer_blocks.0.qkv_proj.lora_down": torch.zeros(6, 4),
        },
        "packed for Nunchaku",
    ),
    "smooth": (
        {
            "double_blocks.0.img_attn.qkv.weight": torch.zeros(6, 4),
            "double_blocks.0.img_attn.qkv.pre_quant_scale": torch.zeros(4),
        },
        "packed with scales of its inputs",
    ),
}


@pytest.mark.parametrize("name", PACKINGS)
def test_weights_packed_by_others_are_named(name: str, tmp_path: Path):
    tensors, words = PACKINGS[name]
    tensors = tensors | {"img_in.weight": torch.zeros(4, 4)}
    path = checkpoints.save(tmp_path / f"{name}.safetensors", tensors)
    with pytest.raises(ValueError, match=f"is {words}.* get it in bf16, .* or GGUF"):
        FileComponent("transformer", path)
    with pytest.raises(ValueError, match=f"is a model {words}.* a LoRA of a FLUX.1"):
        read_adapter(path, 1.0, {})


def test_other_parts_of_a_file_with_a_packed_transformer_are_read(
    tmp_path: Path, file_tensors: Any
):
    tensors = {f"vae.{key}": value for key, value in file_tensors["vae"].items()}
    tensors |= {f"model.diffusion_model.{k}": v for k, v in PACKINGS["bitsandbytes"][0].items()}
    path = checkpoints.save(tmp_path / "flux1-dev-bnb-nf4.safetensors", tensors)
    config = json.loads((BUNDLED / "vae" / "config.json").read_text())
    assert FileComponent("vae", path, config).num_bytes(torch.float32) > 0


@pytest.mark.parametrize(
    "scale",
    [torch.ones(3), torch.ones(1, 384), torch.ones(384, dtype=torch.uint8)],
    ids=["count", "across", "type"],
)
def test_scales_of_another_kind_are_refused(scale: torch.Tensor, tmp_path: Path, file_tensors: Any):
    tensors = dict(file_tensors["transformer"])
    tensors[BLOCK] = tensors[BLOCK].to(torch.float8_e4m3fn)
    assert len(tensors[BLOCK]) == 384
    tensors[BLOCK.replace("weight", "scale_weight")] = scale
    path = checkpoints.save(tmp_path / "fill.safetensors", tensors)
    with pytest.raises(ValueError, match=r"scales of \[.* for the 384 rows of .* get it in bf16"):
        FileComponent("transformer", path, CONFIG)


def test_an_incomplete_file_is_refused(tmp_path: Path, file_tensors: Any):
    tensors = dict(file_tensors["transformer"])
    del tensors["double_blocks.0.txt_mlp.2.weight"]
    path = checkpoints.save(tmp_path / "fill.safetensors", tensors)
    with pytest.raises(ValueError, match="lacks 1 weights"):
        FileComponent("transformer", path, CONFIG)


def test_halves_of_different_models_are_refused(tmp_path: Path, file_tensors: Any):
    tensors = dict(file_tensors["transformer"])
    for key in tensors:
        if key.startswith("single_blocks.1."):
            tensors[key] = torch.cat([tensors[key]] * 2)
    path = checkpoints.save(tmp_path / "fill.safetensors", tensors)
    with pytest.raises(ValueError, match="mixes different models"):
        FileComponent("transformer", path, CONFIG)


ADAPTERS = {
    "sdxl": (tensors_named("lora_unet_down_blocks_1_to_q.lora_down.weight"), "a LoRA of SDXL"),
    "t5": (
        tensors_named("encoder.block.0.layer.0.SelfAttention.q.weight"),
        "the T5 encoder",
    ),
    "vae": (tensors_named("decoder.conv1.weight"), "a VAE of another family"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_no_lora_of_flux_is_named(name: str, tmp_path: Path):
    tensors, words = ADAPTERS[name]
    path = checkpoints.save(tmp_path / f"{name}.safetensors", tensors)
    with pytest.raises(ValueError, match=f"{words}.* a LoRA of a FLUX.1 transformer is needed"):
        read_adapter(path, 1.0, {})


def test_another_mathematics_is_named_with_the_way_through_comfyui(tmp_path: Path):
    tensors = tensors_named("lycoris_double_blocks_0.lokr_w1")
    path = checkpoints.save(tmp_path / "lokr.safetensors", tensors)
    with pytest.raises(ValueError, match=r"is a LyCORIS adapter .*OneReward From Native"):
        read_adapter(path, 1.0, {})


def test_a_transformer_in_the_adapters_slot_is_named(write: Any):
    with pytest.raises(ValueError, match=r"is a FLUX\.1 Fill transformer, but a LoRA"):
        read_adapter(write("transformer", "bf16"), 1.0, {})
