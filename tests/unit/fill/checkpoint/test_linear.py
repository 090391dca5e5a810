"""Layers whose weights stay packed: gradients, memory that autograd keeps, adapters beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from onereward import kernels
from onereward.fill.checkpoint.adapters import apply_adapters, read_adapter
from onereward.fill.checkpoint.component import FileComponent
from onereward.fill.checkpoint.linear import QuantisedLinear
from onereward.fill.checkpoint.stored_tensors import Reader
from onereward.fill.sampling.guidance import Conditioning, Prompt, make_velocity
from onereward.fill.transformer import fused
from onereward.fill.transformer.modulation import ModulationTable, make_table
from support.autograd import saved_by_autograd
from support.bundled_models import BUNDLED
from support.checkpoints import save
from support.tolerance import assert_equal_models

CONFIG = json.loads((BUNDLED / "transformer" / "config.json").read_text())
RANK = 4
TOKENS = 12


def layer(scale: bool, dtype: torch.dtype = torch.float64) -> QuantisedLinear:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator).to(torch.float8_e4m3fn)
    return QuantisedLinear(
        "F8_E4M3",
        weight.view(torch.uint8),
        in_features=8,
        dtype=dtype,
        scale=torch.rand(6, 1, generator=generator) if scale else None,
        bias=torch.randn(6, generator=generator, dtype=dtype),
    )


@pytest.mark.parametrize("scale", [False, True], ids=["plain", "scaled"])
def test_gradients_are_those_of_the_expanded_layer(scale: bool):
    tested = layer(scale)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tested, (x,))
    torch.testing.assert_close(tested(x), F.linear(x, tested.weight, tested.bias))
    with torch.no_grad():
        assert torch.equal(tested(x), F.linear(x, tested.weight, tested.bias))


def test_casting_a_model_leaves_packed_weights_alone():
    tested = layer(scale=False, dtype=torch.bfloat16)
    before = tested.packed.clone()
    tested.to(torch.bfloat16)
    assert torch.equal(tested.packed, before)
    assert tested.weight.dtype == torch.bfloat16


def call(module: Any, dtype: torch.dtype, requires_grad: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    out = module(
        hidden_states=draw(1, TOKENS, CONFIG["in_channels"]).requires_grad_(requires_grad),
        timestep=torch.tensor([0.5]).to(dtype),
        guidance=torch.tensor([3.5]),
        encoder_hidden_states=draw(1, TOKENS, CONFIG["joint_attention_dim"]),
        pooled_projections=draw(1, CONFIG["pooled_projection_dim"]),
        txt_ids=torch.zeros(TOKENS, 3),
        img_ids=torch.zeros(TOKENS, 3),
        return_dict=False,
    )
    return out[0]


@pytest.mark.parametrize("precision", ["e4m3fn", "scaled", "Q8_0"])
def test_autograd_keeps_no_expanded_weight(precision: str, write: Any):
    plain = FileComponent("transformer", write("transformer", "bf16"), CONFIG).load(torch.bfloat16)
    packed = FileComponent("transformer", write("transformer", precision), CONFIG).load(
        torch.bfloat16
    )
    saved = {}
    for name, module in (("plain", plain), ("packed", packed)):
        with saved_by_autograd(module) as sizes:
            out = call(module, torch.bfloat16)
        saved[name] = sum(sizes)
        out.float().square().mean().backward()
    expanded = sum(p.nbytes for p in plain.parameters())
    assert expanded > 4 * saved["plain"], "the weights must be what would show"
    assert saved["packed"] <= saved["plain"]


def adapter(path: Path, base: Any) -> Any:
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for name in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.proj_mlp"):
        rows, columns = base[f"{name}.weight"].shape
        tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(
            RANK, columns, generator=generator
        )
        tensors[f"transformer.{name}.lora_B.weight"] = 0.1 * torch.randn(
            rows, RANK, generator=generator
        )
    return read_adapter(save(path, tensors), 1.0, base)


@pytest.mark.parametrize("precision", ["scaled", "Q8_0"])
def test_adapters_and_checkpointing_work_beside_packed_weights(
    precision: str, write: Any, tmp_path: Path
):
    component = FileComponent("transformer", write("transformer", precision), CONFIG)
    module: Any = component.load(torch.float32)
    alone = call(module, torch.float32, requires_grad=False)
    lora = adapter(tmp_path / "lora.safetensors", component.tensors)
    apply_adapters(module, [lora])
    gradients = []
    for checkpointing in (False, True):
        module.enable_gradient_checkpointing() if checkpointing else None
        module.train()  # diffusers checkpoints only while training
        trained = [p for n, p in module.named_parameters() if ".lora_" in n]
        for p in trained:
            p.requires_grad_(True)
            p.grad = None
        out = call(module, torch.float32)
        assert not torch.equal(out, alone)
        out.square().mean().backward()
        gradients.append([p.grad.clone() for p in trained if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == 4
    for gradient, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected)
    assert all(p.dtype == torch.float32 for p in trained)
    apply_adapters(module, [])
    assert torch.equal(call(module, torch.float32, requires_grad=False), alone)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # in a sigmoid: right
@pytest.mark.parametrize("precision", ["scaled", "Q8_0"])
def test_kernels_and_modulation_table_work_on_packed_weights(precision: str, write: Any):
    module: Any = FileComponent("transformer", write("transformer", precision), CONFIG).load(
        torch.float32
    )
    module.transformer_blocks = module.transformer_blocks[:1]
    module.single_transformer_blocks = module.single_transformer_blocks[:1]
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    cond = Conditioning(
        packed=draw(1, 2, CONFIG["in_channels"] - CONFIG["out_channels"]),
        image_ids=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        positive=Prompt(
            sequence=draw(2, CONFIG["joint_attention_dim"]),
            pooled_embeds=draw(CONFIG["pooled_projection_dim"]),
        ),
        negative=None,
        true_cfg=1.0,
        guidance=3.5,
    )
    x, sigmas = draw(1, 2, CONFIG["out_channels"]).requires_grad_(), torch.tensor([0.8, 0.4])

    def velocity_and_gradient(table: ModulationTable | None = None) -> list[torch.Tensor]:
        velocity = make_velocity(module, cond, table=table)(x, sigmas[1])
        return [velocity, *torch.autograd.grad(velocity.square().sum(), x)]

    plain = velocity_and_gradient()
    fused.attach(module)
    with kernels.use_backend("triton"):
        results = velocity_and_gradient()
        table = make_table(module, cond, sigmas)
        assert table is not None
        ready = velocity_and_gradient(table)
    for values in (results, ready):
        for value, expected in zip(values, plain, strict=True):
            assert_equal_models(value, expected, precision)


def test_a_file_that_changes_after_the_check_is_refused(tmp_path: Path, file_tensors: Any):
    path = save(tmp_path / "fill.safetensors", file_tensors["transformer"])
    component = FileComponent("transformer", path, CONFIG)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match="was changed while it was in use"):
        component.load(torch.bfloat16)


def test_a_file_that_is_gone_by_then_is_refused(tmp_path: Path, file_tensors: Any):
    path = save(tmp_path / "fill.safetensors", file_tensors["transformer"])
    component = FileComponent("transformer", path, CONFIG)
    path.unlink()
    with pytest.raises(ValueError, match=r"fill\.safetensors was changed while it was in use"):
        component.load(torch.bfloat16)


@pytest.mark.parametrize(
    ("size", "message"),
    [(None, "was changed while it was in use"), (100_000, "ends too early|was changed while")],
    ids=["rewritten", "cut"],
)
def test_a_file_that_changes_while_it_is_loaded_is_refused(
    size: int | None,
    message: str,
    tmp_path: Path,
    file_tensors: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    path = save(tmp_path / "fill.safetensors", file_tensors["transformer"])
    component = FileComponent("transformer", path, CONFIG)
    read, calls = Reader.rows, []

    def rows(self: Reader, *which: Any) -> torch.Tensor:
        calls.append(which)
        if len(calls) == 10:
            os.utime(path, ns=(1, 1)) if size is None else os.truncate(path, size)
        return read(self, *which)

    monkeypatch.setattr(Reader, "rows", rows)
    with pytest.raises(ValueError, match=message):
        component.load(torch.bfloat16)
    assert len(calls) >= 10


@pytest.mark.parametrize("precision", ["scaled", "Q8_0"])
def test_kohya_and_flux_dev_loras_work_beside_packed_weights(
    precision: str, write: Any, tmp_path: Path
):
    component = FileComponent("transformer", write("transformer", precision), CONFIG)
    module: Any = component.load(torch.float32)
    generator = torch.Generator().manual_seed(3)
    width, channels = component.tensors["x_embedder.weight"].shape
    latents = component.tensors["proj_out.weight"].shape[0]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    down, up = draw(RANK, width), draw(3 * width, RANK)
    first_down, first_up = draw(RANK, latents), draw(width, RANK)
    fused, first = "lora_unet_double_blocks_0_img_attn_qkv", "transformer.x_embedder"
    kohya = {f"{fused}.lora_down.weight": down, f"{fused}.lora_up.weight": up}
    kohya[f"{fused}.alpha"] = torch.tensor(float(RANK))
    dev = {f"{first}.lora_A.weight": first_down, f"{first}.lora_B.weight": first_up}
    x, packed = draw(3, width), draw(3, channels)
    layers = [f"transformer_blocks.0.attn.to_{name}" for name in "qkv"]
    before = [module.get_submodule(layer)(x) for layer in layers]
    embedded = module.x_embedder(packed)
    files = [save(tmp_path / "kohya.safetensors", kohya), save(tmp_path / "dev.safetensors", dev)]
    apply_adapters(module, [read_adapter(file, 1.0, component.tensors) for file in files])
    for layer, plain, rows in zip(layers, before, up.chunk(3), strict=True):
        expected = plain + (x @ down.T) @ rows.T
        torch.testing.assert_close(module.get_submodule(layer)(x), expected, rtol=1e-4, atol=1e-3)
    # The latents come first among the channels of Fill; the rest is not touched.
    expected = embedded + (packed[:, :latents] @ first_down.T) @ first_up.T
    torch.testing.assert_close(module.x_embedder(packed), expected, rtol=1e-4, atol=1e-3)
