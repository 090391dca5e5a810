"""Weights packed into fp8 and NF4 while they are loaded: values, sizes, and what stays as it is."""

from __future__ import annotations

import gguf
import pytest
import torch

from onereward.fill.checkpoint.codec import expand, nf4_codes
from onereward.fill.checkpoint.linear import QuantisedLinear
from onereward.fill.checkpoint.packing import expansion_bytes, pack
from onereward.fill.config import ModelConfig
from onereward.fill.io.files import TensorInfo
from onereward.fill.models import FillModels, load_fill_models
from support.bundled_models import BUNDLED
from support.live_memory import LiveMemory

CPU = torch.device("cpu")
OFFSET = 0.9677083
"""Of QLoRA's quantiles, chosen by its authors so that both ends are exact."""


def weight(rows: int = 48, columns: int = 160) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def load(precision: str) -> FillModels:
    return load_fill_models(ModelConfig(folder=str(BUNDLED), precision=precision), CPU)


def test_nf4_values_are_the_quantiles_of_the_paper() -> None:
    """Source: QLoRA (arXiv 2305.14314), appendix E: an asymmetric set with an exact zero."""

    def quantiles(count: int) -> torch.Tensor:
        return torch.special.ndtri(torch.linspace(OFFSET, 0.5, count, dtype=torch.float64)[:-1])

    expected = torch.cat([quantiles(9), torch.zeros(1).double(), -quantiles(8)]).sort()[0]
    codes = torch.arange(16, dtype=torch.uint8)
    pairs = ((codes << 4) | codes)[:, None].repeat(1, 32)
    values = expand("NF4", pairs, torch.float64, torch.ones(16))[:, 0]
    torch.testing.assert_close(values, expected / expected.max(), rtol=0, atol=1e-6)


def test_nf4_takes_the_nearest_value_of_its_block() -> None:
    original = weight()
    packed, scale = pack("NF4", original)
    assert packed.shape == (48, 80)
    assert torch.equal(scale, original.reshape(-1, 64).abs().amax(1))
    codes = torch.arange(16, dtype=torch.uint8).repeat(2)[None]
    values = expand("NF4", codes, torch.float32, torch.ones(1))[0, 1:32:2]  # the lower halves
    distance = (original.reshape(-1, 64, 1) / scale[:, None, None] - values).abs()
    expanded = expand("NF4", packed, torch.float32, scale)
    torch.testing.assert_close(
        (expanded - original).abs().reshape(-1, 64), distance.amin(-1) * scale[:, None]
    )


@pytest.mark.parametrize("shape", [(64, 128), (32, 192)])
def test_nf4_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    original = weight(*shape)
    reference, state = functional.quantize_4bit(original, blocksize=64, quant_type="nf4")
    packed, scale = pack("NF4", original)
    assert torch.equal(packed.flatten(), reference.flatten())
    assert torch.equal(scale, state.absmax)
    assert torch.equal(
        expand("NF4", packed, torch.float32, scale), functional.dequantize_4bit(reference, state)
    )


def test_fp8_keeps_the_largest_of_a_row_and_rounds_the_rest() -> None:
    original = weight() * torch.logspace(-6, 3, 48)[:, None]
    original[7] = 0
    packed, scale = pack("F8_E4M3", original)
    values = expand("F8_E4M3", packed, torch.float32, scale)
    largest = original.abs().amax(1)
    torch.testing.assert_close(values.abs().amax(1), largest)
    # Three bits of mantissa: half a step is 1/16 of a value; below 2^-6 steps of 2^-9 remain.
    bound = (original.abs() / 16).maximum(largest[:, None] / 448 * 2**-10)
    assert ((values - original).abs() <= bound * 1.001).all()


@pytest.mark.parametrize(("precision", "share"), [("fp8", 0.26), ("nf4", 0.15)])
def test_sizes_are_known_before_loading(precision: str, share: float) -> None:
    plain, models = load("fp32"), load(precision)
    num_bytes = models.transformer.num_bytes
    module = models.transformer.module
    assert num_bytes == sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    assert num_bytes < (share + 0.15) * plain.transformer.num_bytes  # the rest weighs much here
    packed = [m for m in module.modules() if isinstance(m, QuantisedLinear)]
    assert models.expansion_bytes == 6 * max(m.out_features * m.in_features for m in packed)
    assert expansion_bytes(plain.transformer_tensors) == 0


GGUF = ("Q8_0", "Q5_1", "Q4_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


@pytest.mark.parametrize("kind", ["F8_E4M3", "NF4", *GGUF])
def test_expanding_takes_no_more_than_planned(kind: str) -> None:
    shape = 256, 3072
    scale, row_bytes = None, shape[1] if kind == "F8_E4M3" else shape[1] // 2
    if kind in GGUF:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        row_bytes = shape[1] // block * size
    else:
        scale = torch.ones(shape[0], 1) if kind == "F8_E4M3" else torch.ones(shape[0] * 48)
    packed = torch.zeros(shape[0], row_bytes, dtype=torch.uint8)
    with LiveMemory([packed] if scale is None else [packed, scale]) as memory:
        expand(kind, packed, torch.bfloat16, scale)
    forecast = expansion_bytes({"blocks.0.weight": TensorInfo(kind, shape)})
    assert shape[0] * shape[1] * 2 < memory.peak <= 1.01 * forecast


def test_only_matrices_of_blocks_are_packed() -> None:
    models = load("nf4")
    module = models.transformer.module
    packed = {n for n, m in module.named_modules() if isinstance(m, QuantisedLinear)}
    linears = {n for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)}
    assert packed == {name for name in linears if "transformer_blocks." in name}
    assert module.dtype == torch.float32
    assert models.vae.num_bytes == load("fp32").vae.num_bytes
    assert models.transformer_source.is_quantised


def test_codes_of_the_ends() -> None:
    ends = torch.tensor([-1.0, 0.0, 1.0])
    assert nf4_codes(ends).tolist() == [0, 7, 15]
