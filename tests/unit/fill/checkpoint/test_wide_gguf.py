"""A GGUF file as people have FLUX: the published width, K-quants of several kinds in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from onereward.fill.checkpoint.codec import expand
from onereward.fill.checkpoint.component import FileComponent
from support import checkpoints
from support.published import TRANSFORMER

pytestmark = pytest.mark.slow

KINDS = ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q3_K", "Q2_K", "Q8_0")
"""In turn over the matrices that are compared: a file named Q4_K_M mixes them, too."""
ROWS = 64
"""Of each matrix are compared: the reference expands slowly."""

W, D, S = 3072, "transformer_blocks.0.", "single_transformer_blocks.0."
PLACES: dict[str, tuple[str, int]] = {
    f"{D}attn.to_q": ("double_blocks.0.img_attn.qkv", 0),
    f"{D}attn.to_k": ("double_blocks.0.img_attn.qkv", W),
    f"{D}attn.to_v": ("double_blocks.0.img_attn.qkv", 2 * W),
    f"{D}attn.add_v_proj": ("double_blocks.0.txt_attn.qkv", 2 * W),
    f"{D}attn.to_out.0": ("double_blocks.0.img_attn.proj", 0),
    f"{D}norm1.linear": ("double_blocks.0.img_mod.lin", 0),
    f"{D}ff.net.0.proj": ("double_blocks.0.img_mlp.0", 0),
    f"{D}ff_context.net.2": ("double_blocks.0.txt_mlp.2", 0),
    f"{S}attn.to_k": ("single_blocks.0.linear1", W),
    f"{S}proj_mlp": ("single_blocks.0.linear1", 3 * W),
    f"{S}proj_out": ("single_blocks.0.linear2", 0),
    f"{S}norm.linear": ("single_blocks.0.modulation.lin", 0),
    "norm_out.linear": ("final_layer.adaLN_modulation.1", W),
    "context_embedder": ("txt_in", 0),
}
"""Layers, the tensor of the file that each is in, and its first row there."""


@pytest.fixture(scope="module")
def packed(comfy_base: Path) -> dict[str, tuple[np.ndarray, Any]]:
    """Random blocks for every tensor in the original layout, with their kinds."""
    del comfy_base  # for the import of ComfyUI
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        module: Any = FluxTransformer2DModel(**TRANSFORMER)
        names = checkpoints.original_transformer(dict(module.named_parameters()))
    generator = np.random.default_rng(0)
    tensors: dict[str, tuple[np.ndarray, Any]] = {}
    compared = list(dict.fromkeys(name for name, _ in PLACES.values()))
    for name, tensor in names.items():
        owner = name.removesuffix(".weight")
        index = compared.index(owner) if owner in compared else 0
        kind = gguf.GGMLQuantizationType[KINDS[index % len(KINDS)]]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if tensor.ndim == 2 and tensor.shape[1] % block == 0:
            shape = (tensor.shape[0], tensor.shape[1] // block * size)
            # Scales are halves somewhere in a block: random bits there can be infinite.
            tensors[name] = generator.integers(0, 256, shape, dtype=np.uint8) & np.uint8(0x3B), kind
        else:
            values = generator.standard_normal(tuple(tensor.shape)).astype(np.float16)
            tensors[name] = values, None
    return tensors


@pytest.fixture(scope="module")
def component(packed: dict[str, tuple[np.ndarray, Any]], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("gguf") / "flux1-fill-dev-Q4_K_M.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    for name, (values, kind) in packed.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return FileComponent("transformer", path)


def test_rows_of_every_block_format_are_where_they_belong(
    component: FileComponent, packed: dict[str, tuple[np.ndarray, Any]]
):
    module = component.load(torch.bfloat16)
    for layer, (name, start) in PLACES.items():
        values, kind = packed[f"{name}.weight"]
        truth = gguf.quants.dequantize(values[start : start + ROWS], kind)
        tested: Any = module.get_submodule(layer)
        expanded = expand(tested.kind, tested.packed[:ROWS], torch.float32)
        torch.testing.assert_close(expanded, torch.from_numpy(truth), msg=layer)
    size = sum(p.nbytes for p in module.parameters())
    assert component.num_bytes(torch.bfloat16) == size
    values, _ = packed["img_in.weight"]
    embedder: Any = module.get_submodule("x_embedder")
    assert torch.equal(embedder.weight, torch.from_numpy(values).bfloat16())
