"""The memory forecast against what autograd really keeps, counted on the libraries' own modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from onereward.fill.config import ModelConfig
from onereward.fill.models import load_fill_models
from onereward.fill.transformer.recompute import checkpoint_blocks
from onereward.reward.judge import BUNDLED, BUNDLED_FOLDER, JudgeConfig
from onereward.reward.vlm.qwen_vl import QwenJudge
from onereward.training.policy.config import OFF, PolicyTrainConfig
from onereward.training.policy.forecast import (
    make_forecast,
    num_trained,
    policy_bytes,
    reward_bytes,
)
from onereward.training.policy.run import check
from onereward.training.policy.weights import Policy, lora_targets
from support.bundled_models import bundled_models
from support.headers import write_flux_fill, write_qwen
from support.judges import REAL_LIKE, make_judge
from support.policy_runs import make_conditions, policy_config, run_models_for
from support.recording_host import RecordingHost

WIDTH, HEADS, TOKENS, TEXT = 512, 4, 256, 128


class Kept:
    """Counts the bytes of storages that autograd keeps, weights left out."""

    def __init__(self, weights: nn.Module) -> None:
        self._weights = {p.untyped_storage()._cdata for p in weights.parameters()}
        self._found: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._found[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    @property
    def num_bytes(self) -> int:
        return sum(size for size, _ in self._found.values())


@contextmanager
def keeping(weights: nn.Module) -> Iterator[Kept]:
    memory = Kept(weights)
    with torch.autograd.graph.saved_tensors_hooks(memory.pack, lambda tensor: tensor):
        yield memory


def flux(num_double: int, num_single: int, dtype: torch.dtype) -> Any:
    from diffusers import FluxTransformer2DModel

    model: Any = FluxTransformer2DModel(
        patch_size=1,
        in_channels=384,
        out_channels=64,
        num_layers=num_double,
        num_single_layers=num_single,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=256,
        pooled_projection_dim=64,
        guidance_embeds=True,
    )
    return model.to(dtype)


def kept_by_flux(model: Any, config: PolicyTrainConfig, dtype: torch.dtype) -> int:
    from peft import LoraConfig

    model.requires_grad_(config.mode == "full")
    if config.mode == "lora":
        model.add_adapter(LoraConfig(**config.lora(lora_targets(model, config.layers))))
        model.to(dtype)
    if config.gradient_checkpointing != OFF:
        checkpoint_blocks(model)
    with keeping(model) as memory:
        out = model(
            hidden_states=torch.zeros(1, TOKENS, 384, dtype=dtype),
            timestep=torch.zeros(1, dtype=dtype),
            guidance=torch.zeros(1),
            encoder_hidden_states=torch.zeros(1, TEXT, 256, dtype=dtype),
            pooled_projections=torch.zeros(1, 64, dtype=dtype),
            txt_ids=torch.zeros(TEXT, 3),
            img_ids=torch.zeros(TOKENS, 3),
            return_dict=False,
        )
    del out
    return memory.num_bytes


def models_like(num_double: int, num_single: int, dtype: torch.dtype) -> Any:
    recipe = replace(bundled_models().recipe, max_sequence_length=TEXT)
    architecture = {"num_layers": num_double, "num_single_layers": num_single}
    heads = {"num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS}
    return SimpleNamespace(
        transformer_config=architecture | heads, recipe=recipe, dtype=dtype, expansion_bytes=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize(
    "settings",
    [
        {"layers": "attention"},
        {"layers": "attention_mlp"},
        {"mode": "full"},
        {"gradient_checkpointing": "blocks"},
    ],
    ids=["attention", "linear", "full", "checkpointed"],
)
def test_what_a_block_of_the_transformer_keeps(
    tmp_path: Path, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    config = policy_config(tmp_path, tmp_path, tmp_path, true_cfg=1.0, **settings)
    shapes = ((2, 2), (3, 2), (2, 3))
    measured = [kept_by_flux(flux(*shape, dtype), config, dtype) for shape in shapes]
    forecasts = [policy_bytes(config, models_like(*shape, dtype), (1, TOKENS)) for shape in shapes]
    for i in (1, 2):
        assert forecasts[i] - forecasts[0] == pytest.approx(measured[i] - measured[0], rel=0.02)
    if config.gradient_checkpointing == OFF:
        assert measured[0] < forecasts[0] < 1.3 * measured[0]


def test_guidance_doubles_and_rows_multiply(tmp_path: Path) -> None:
    config = policy_config(tmp_path, tmp_path, tmp_path, true_cfg=1.0)
    models = models_like(2, 2, torch.bfloat16)
    single = policy_bytes(config, models, (1, TOKENS))
    assert policy_bytes(replace(config, true_cfg=2.0), models, (1, TOKENS)) == pytest.approx(
        2 * single, rel=1e-6
    )
    assert policy_bytes(config, models, (3, TOKENS)) == pytest.approx(3 * single, rel=1e-6)


@pytest.mark.parametrize("channels", [(128, 256, 512, 512), (16, 32, 64)], ids=["flux", "small"])
def test_what_the_decoder_keeps(tmp_path: Path, channels: tuple[int, ...]) -> None:
    from diffusers import AutoencoderKL

    shape: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 16,
    }
    vae: Any = AutoencoderKL(**shape)
    vae.requires_grad_(False)
    latents = torch.zeros(1, 16, 8, 8, requires_grad=True)
    with keeping(vae) as memory:
        out = vae.decode(latents, return_dict=False)
    del out
    component = SimpleNamespace(dtype=torch.float32)
    models: Any = SimpleNamespace(vae=component, vae_config={"block_out_channels": channels})
    config = policy_config(tmp_path, tmp_path, tmp_path)
    assert reward_bytes(config, models, (), (8, 8), 1) == pytest.approx(memory.num_bytes, rel=0.05)


def test_what_is_trained_is_counted_from_headers(tmp_path: Path) -> None:
    conditions, judge = make_conditions(tmp_path / "c"), make_judge(tmp_path / "j")
    for changes in ({"rank": 4}, {"rank": 4, "layers": "attention"}, {"mode": "full"}):
        config = policy_config(tmp_path / "run", conditions, judge, **changes)
        policy = Policy(bundled_models(), config, torch.device("cpu"))
        try:
            count = sum(p.numel() for p in policy.parameters.values())
        finally:
            policy.release()
        assert num_trained(config, bundled_models()) == count


def test_a_run_that_does_not_fit_is_told_what_to_change(tmp_path: Path) -> None:
    conditions, judge = make_conditions(tmp_path / "c"), make_judge(tmp_path / "j")
    config = policy_config(tmp_path / "run", conditions, judge, batch_size=64, micro_batch_size=64)
    run_models = run_models_for(config)
    whole = make_forecast(config, run_models.models, run_models.judges, RecordingHost())
    assert whole.fits
    assert whole.text().endswith("fits")
    tight = check(config, RecordingHost(free=whole.peak // 2), run_models)
    assert not tight.fits
    assert "does not fit; with micro_batch_size 1 it would take" in tight.text()
    hopeless = check(config, RecordingHost(free=1 << 20), run_models)
    assert "change all of: micro_batch_size 1, gradient_checkpointing of blocks" in hopeless.text()


def test_the_evaluation_judge_is_counted_where_it_evaluates(tmp_path: Path) -> None:
    conditions, judge = make_conditions(tmp_path / "c"), make_judge(tmp_path / "j")
    eval_judge = {"folder": str(make_judge(tmp_path / "other", REAL_LIKE)), "precision": "fp32"}
    config = policy_config(tmp_path / "run", conditions, judge, eval_judge=eval_judge, eval_every=1)
    run_models = run_models_for(config)
    assert run_models.eval_judge is not None
    (component,) = run_models.eval_judge.components
    weights = sum(4 * p.numel() for p in component.module.parameters())
    *before, evaluation = check(config, RecordingHost(), run_models).stages
    assert evaluation.weights == pytest.approx(weights, rel=0.01)
    assert evaluation.activations > 0
    never = check(replace(config, eval_every=0), RecordingHost(), run_models)
    assert list(never.stages) == before


@pytest.mark.skipif(not BUNDLED_FOLDER.is_dir(), reason="no bundled judge in this copy")
def test_the_bundled_judge_is_known_by_its_name(tmp_path: Path) -> None:
    """A config written by hand says ``bundled`` where a node writes the folder."""
    conditions, forecasts = make_conditions(tmp_path / "c"), []
    for folder in (BUNDLED, str(BUNDLED_FOLDER)):
        judges = ({"folder": folder},)
        config = policy_config(tmp_path / "run", conditions, tmp_path, judges=judges)
        forecasts.append(check(config, RecordingHost(), run_models_for(config)).text())
    assert forecasts[0] == forecasts[1]


def test_24_gb_train_a_12b_model_by_a_7b_judge_at_512(tmp_path: Path) -> None:
    """With both packed: even if no weight ever leaves the device for another's sake."""
    flux, qwen = write_flux_fill(tmp_path / "flux"), write_qwen(tmp_path / "qwen")
    free = 24 * 10**9 - 1_500_000_000  # what context, workspaces and fragments leave
    forecasts = {}
    for precision in ("bf16", "fp8", "nf4"):
        model: dict[str, Any] = {"folder": str(flux), "precision": precision}
        model["recipe"] = "OneReward"  # whose guidance takes two rows
        config = policy_config(
            tmp_path / "run",
            tmp_path,
            qwen,
            model=model,
            micro_batch_size=1,
            gradient_checkpointing="blocks",
            target_size=512,
            rank=16,
        )
        # Loaded for a GPU: what is frozen computes in bf16.
        models = load_fill_models(ModelConfig(**model), torch.device("cuda"))
        judge = QwenJudge(JudgeConfig(folder=str(qwen), precision=precision), torch.device("cuda"))
        forecasts[precision] = make_forecast(config, models, [judge], RecordingHost(free=free))
    nf4 = forecasts["nf4"]
    assert nf4.fits
    _, policy, judging = nf4.stages
    # 11.90 and 8.29 B parameters; outside of the blocks, and the vision tower, are in bf16.
    assert policy.weights == pytest.approx(6.9e9, rel=0.05)
    assert judging.weights == pytest.approx(7.4e9, rel=0.05)
    together = policy.weights + judging.weights + nf4.trained
    assert together + max(policy.activations, judging.activations) < free
    # In fp8 weights have to make room for each other, in bf16 not even that helps.
    assert forecasts["fp8"].fits
    assert not forecasts["bf16"].fits
    assert "precision nf4 or fp8" in forecasts["bf16"].text()
