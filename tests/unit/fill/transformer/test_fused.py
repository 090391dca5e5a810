"""The fused transformer against diffusers' own, forward and backward, and that it comes off again.

Without a GPU the kernels run in Triton's interpreter, which takes milliseconds per row: sequences
are short.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from onereward import kernels
from onereward.fill.config import FillConfig, ModelConfig
from onereward.fill.local_host import LocalHost
from onereward.fill.models import load_fill_models
from onereward.fill.pipeline import run_fill
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from onereward.fill.transformer import attention, fused
from onereward.fill.transformer.recompute import checkpoint_blocks
from support.bundled_models import BUNDLED, bundled_models
from support.kernel_cases import DEVICE
from support.tolerance import assert_as_exact, assert_equal_models, assert_model_as_exact, error

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # in a sigmoid: right


@pytest.fixture(scope="module")
def bundled() -> nn.Module:
    """A copy of the bundled transformer, one block of each kind, to be changed at will."""
    model: Any = copy.deepcopy(bundled_models().transformer.module)
    model.transformer_blocks = model.transformer_blocks[:1]
    model.single_transformer_blocks = model.single_transformer_blocks[:1]
    return model.to(DEVICE)


@pytest.fixture
def transformer(bundled: nn.Module) -> Iterator[Any]:
    weights = {name: value.clone() for name, value in bundled.state_dict().items()}
    yield bundled
    fused.detach(bundled)
    if getattr(bundled, "peft_config", None):
        bundled.unload_lora()  # type: ignore[operator]
    # Half precision has rounded them, and no test may depend on those before it.
    bundled.float().requires_grad_(False).load_state_dict(weights)


def inputs(model: Any, dtype: torch.dtype = torch.float32, batch: int = 2) -> dict[str, Any]:
    """A short call: one text token, two of the image."""
    generator = torch.Generator().manual_seed(3)
    config = model.config

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(torch.bfloat16).to(DEVICE, dtype)

    return {
        "hidden_states": draw(batch, 2, config.in_channels).requires_grad_(),
        "encoder_hidden_states": draw(batch, 1, config.joint_attention_dim),
        # As large as a real one: a larger one drives the bundled model out of float16's range.
        "pooled_projections": draw(batch, config.pooled_projection_dim) * 0.1,
        "timestep": torch.full((batch,), 0.5, dtype=dtype, device=DEVICE),
        "guidance": torch.full((batch,), 3.5, device=DEVICE),
        "img_ids": torch.tensor([[0.0, 0.0, 1.0], [0.0, 5.0, 2.0]], device=DEVICE),
        "txt_ids": torch.zeros(1, 3, device=DEVICE),
        "return_dict": False,
    }


def call(
    model: Any, arguments: dict[str, Any], parameters: tuple[Tensor, ...] = ()
) -> list[Tensor]:
    """Return the output, and the gradients of the image's tokens and of parameters."""
    (output,) = model(**arguments)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output).to(output)
    sources = (arguments["hidden_states"], *parameters)
    return [output, *torch.autograd.grad(output, sources, weights)]


@pytest.fixture
def demand_triton() -> Iterator[None]:
    with kernels.use_backend("triton"):
        yield


@pytest.mark.usefixtures("demand_triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_as_exact_as_diffusers(transformer: Any, dtype: torch.dtype):
    truth = call(transformer.double(), inputs(transformer, torch.float64))
    plain = call(transformer.to(dtype), inputs(transformer, dtype))
    fused.apply_kernels(transformer, "on", DEVICE)
    results = call(transformer, inputs(transformer, dtype))
    for i, (result, expected, exact) in enumerate(zip(results, plain, truth, strict=True)):
        assert_as_exact(result, expected, exact, f"result {i}")


@pytest.mark.usefixtures("demand_triton")
def test_flux_width_equals_diffusers():
    """One block of each kind with FLUX.1's 24 heads of 128, random weights."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model: Any = FluxTransformer2DModel(
            in_channels=384, out_channels=64, num_layers=1, num_single_layers=1,
            joint_attention_dim=64, pooled_projection_dim=64, guidance_embeds=True,
        )  # fmt: skip
    model.to_empty(device="cpu").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.uniform_(-1, 1, generator=generator)
        if parameter.ndim > 1:
            parameter.mul_((3 / parameter.shape[-1]) ** 0.5)
    model.to(DEVICE)
    arguments = inputs(model, batch=1)
    plain = call(model, arguments)
    fused.attach(model)
    for result, expected in zip(call(model, arguments), plain, strict=True):
        assert_equal_models(result, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("demand_triton")
def test_images_are_the_same():
    """A whole edit with the bundled model and guidance, kernels on and off."""
    images = []
    for mode in ("off", "on"):
        config = ModelConfig(folder=str(BUNDLED), precision="fp32", kernels=mode)
        models = load_fill_models(config, DEVICE)
        mask = torch.zeros(1, 16, 16)
        mask[:, 4:12, 4:12] = 1
        request = FillRequest(
            task=Task.FILL,
            image=torch.linspace(0, 1, 16 * 16 * 3).view(1, 16, 16, 3),
            mask=mask,
            prompt="a red circle",
            config=FillConfig(steps=2, crop_to_context=False),
        )
        images.append(run_fill(request, models, LocalHost(DEVICE)).image)
        assert fused.is_attached(models.transformer.module) == (mode == "on")
    assert not torch.equal(*images), "the kernels took part"
    assert_equal_models(images[1], images[0])


def test_taking_it_off_is_exact(transformer: Any):
    arguments = inputs(transformer)
    state = {name: value.clone() for name, value in transformer.state_dict().items()}
    pointers = {name: p.data_ptr() for name, p in transformer.named_parameters()}
    classes = [type(module) for module in transformer.modules()]
    config, before = transformer.config, call(transformer, arguments)
    fused.attach(transformer)
    assert fused.is_attached(transformer)
    assert list(transformer.state_dict()) == list(state)
    fused.detach(transformer)
    assert [type(module) for module in transformer.modules()] == classes
    assert transformer.config is config
    assert {name: p.data_ptr() for name, p in transformer.named_parameters()} == pointers
    for name, value in transformer.state_dict().items():
        assert torch.equal(value, state[name]), name
    for result, expected in zip(call(transformer, arguments), before, strict=True):
        assert torch.equal(result, expected)


def add_lora(transformer: Any, name: str, **options: Any) -> tuple[Tensor, ...]:
    """Put an adapter with an effect on layers of every kind; return its parameters."""
    from peft import LoraConfig

    targets = ["to_q", "add_k_proj", "to_out.0", "net.0.proj", "proj_mlp", "proj_out", "linear"]
    transformer.add_adapter(
        LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, **options),
        adapter_name=name,
    )
    parameters = [p for key, p in transformer.named_parameters() if f".{name}." in key]
    generator = torch.Generator().manual_seed(len(parameters))
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return tuple(parameters)


@pytest.mark.parametrize("count", [1, 2], ids=["one", "two"])
def test_adapters_learn_the_same(transformer: Any, count: int):
    parameters = tuple(p for i in range(count) for p in add_lora(transformer, f"lora{i}"))
    transformer.set_adapters([f"lora{i}" for i in range(count)], [0.7, 1.5][:count])
    arguments = inputs(transformer)
    plain = call(transformer, arguments, parameters)
    truth = call(transformer.double(), inputs(transformer, torch.float64), parameters)
    transformer.float()
    with kernels.use_backend("reference"):
        fused.attach(transformer)
        results = call(transformer, arguments, parameters)
        assert any("LoraLinear" in str(node) for node in _graph(transformer(**arguments)[0]))
    assert_model_as_exact(results, plain, truth)


def _graph(output: Tensor) -> list[Any]:
    """Every node of the gradient's graph."""
    nodes, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            todo += [following for following, _ in node.next_functions]
    return list(nodes)


def test_adapters_come_and_go_under_the_kernels(transformer: Any):
    arguments = inputs(transformer)
    before = call(transformer, arguments)[0]
    fused.attach(transformer)
    add_lora(transformer, "late")
    assert not fused.is_attached(transformer)
    fused.attach(transformer)
    with kernels.use_backend("reference"):
        adapted = call(transformer, arguments)[0]
        transformer.disable_adapters()
        off = call(transformer, arguments)[0]
    assert error(adapted, before) > 1e-3
    assert_equal_models(off, before)
    transformer.unload_lora()
    fused.detach(transformer)
    assert torch.equal(call(transformer, arguments)[0], before)


def test_other_kinds_of_adapter_go_through_peft(transformer: Any):
    add_lora(transformer, "dora", use_dora=True)
    arguments = inputs(transformer)
    before = call(transformer, arguments)[0]
    with kernels.use_backend("reference"):
        fused.attach(transformer)
        assert_equal_models(call(transformer, arguments)[0], before)


class AttentionCounter(TorchDispatchMode):
    """Counts how often attention is computed, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "scaled_dot_product" in name:
            self.backward += "backward" in name
            self.forward += "backward" not in name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("keep_attention", [False, True], ids=["whole", "selective"])
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "diffusers"])
def test_checkpointing_gives_the_same_gradients(
    transformer: Any, is_fused: bool, keep_attention: bool
):
    if is_fused:
        fused.attach(transformer)
    parameters = add_lora(transformer, "lora")
    arguments = inputs(transformer)
    with kernels.use_backend("reference"):
        plain = call(transformer, arguments, parameters)
        checkpoint_blocks(transformer, keep_attention)
        with AttentionCounter() as counter:
            results = call(transformer, arguments, parameters)
        transformer.disable_gradient_checkpointing()
    for result, expected in zip(results, plain, strict=True):
        assert torch.equal(result, expected)
    num_blocks = 2
    assert counter.backward == num_blocks
    assert counter.forward == (num_blocks if keep_attention else 2 * num_blocks)


@pytest.mark.usefixtures("demand_triton")
@pytest.mark.parametrize("kind", ["transformer_blocks", "single_transformer_blocks"])
@pytest.mark.parametrize("is_hopper", [False, True], ids=["older", "hopper"])
def test_a_block_with_adapters_compiles_without_graph_breaks(
    transformer: Any, kind: str, is_hopper: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention, "is_hopper", lambda *_: is_hopper)
    add_lora(transformer, "lora")
    fused.attach(transformer)
    block = getattr(transformer, kind)[0]
    width = transformer.inner_dim
    generator = torch.Generator().manual_seed(1)
    image, text, temb = (
        torch.randn(*shape, generator=generator).to(DEVICE)
        for shape in ((1, 2, width), (1, 1, width), (1, width))
    )
    arguments = inputs(transformer)
    full = transformer.pos_embed(torch.cat([arguments["txt_ids"], arguments["img_ids"]]))
    trained = [p for p in block.parameters() if p.requires_grad]
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    results = []
    for form in (block, compiled):
        outputs = form(image, text, temb, full)
        results.append([*outputs, *torch.autograd.grad([m.sum() for m in outputs], trained)])
    for result, expected in zip(*results, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("order", ["hooks first", "kernels first"])
def test_blocks_with_offload_hooks_give_the_same(transformer: Any, order: str):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    arguments = inputs(transformer)
    before = call(transformer, arguments)[0]
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    steps = [lambda: fused.attach(transformer)]
    steps.append(lambda: [add_hook_to_module(block, ModelHook()) for block in blocks])  # type: ignore[arg-type]
    for step in steps if order == "kernels first" else reversed(steps):
        step()
    with kernels.use_backend("reference"):
        assert_equal_models(call(transformer, arguments)[0], before)
    for block in blocks:
        remove_hook_from_module(block)


def test_what_is_not_fused_goes_through_diffusers(transformer: Any):
    arguments = inputs(transformer)
    residuals = [torch.ones(2, 2, transformer.inner_dim, device=DEVICE)]
    special = arguments | {
        "controlnet_block_samples": residuals,
        "joint_attention_kwargs": {"scale": 1},
    }
    before = call(transformer, special)[0]
    fused.attach(transformer)
    with kernels.use_backend("reference"):
        assert_equal_models(call(transformer, special)[0], before)

    class OwnProcessor(type(transformer.transformer_blocks[0].attn.processor)):
        """Takes the place of a user's."""

    fused.detach(transformer)
    processors = dict(transformer.attn_processors)
    transformer.set_attn_processor({name: OwnProcessor() for name in processors})
    before = call(transformer, arguments)[0]
    fused.attach(transformer)
    transformer.single_transformer_blocks[0].attn.set_processor(OwnProcessor())
    block = transformer.transformer_blocks[0]
    assert not fused._is_covered(block, (1, 1), None)
    transformer.set_attn_processor(processors)


def test_modes(transformer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    fused._log_absent.cache_clear()
    with caplog.at_level(logging.INFO, "onereward.fill"):
        for _ in range(2):
            fused.apply_kernels(transformer, "auto", torch.device("cpu"))
    (message,) = [r.message for r in caplog.records]
    assert message.startswith("the transformer runs without fused kernels: ")
    assert message.endswith("the interpreter is for tests" if DEVICE.type == "cpu" else "expected")
    fused.apply_kernels(transformer, "on", DEVICE)
    assert fused.is_attached(transformer)
    fused.apply_kernels(transformer, "off", DEVICE)
    assert not fused.is_attached(transformer)
    monkeypatch.setattr(kernels, "device_refusal", lambda *_: "Triton is not installed")
    with pytest.raises(
        kernels.KernelUnavailable, match=r"cannot run: Triton is not installed; set"
    ):
        fused.apply_kernels(transformer, "on", DEVICE)
    with pytest.raises(
        kernels.KernelUnavailable, match="is a Linear, not a FluxTransformer2DModel"
    ):
        fused.apply_kernels(nn.Linear(1, 1), "on", DEVICE)
