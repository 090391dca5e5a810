"""Schedule, sampler, packing, cache and preview against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from onereward.fill.memory.plan import Plan, is_out_of_memory
from onereward.fill.sampling.cache import TensorCache, digest
from onereward.fill.sampling.latents import pack_latents, position_ids, unpack_latents, vae_factor
from onereward.fill.sampling.preview import fit_preview, preview_image
from onereward.fill.sampling.sampler import add_noise, predict_x0, sample
from onereward.fill.sampling.schedule import make_sigmas, truncate_schedule

FLUX_SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


@pytest.mark.parametrize("tokens", [1, 64, 256, 1024, 4096])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_sigmas_follow_the_resolution_shift(tokens: int, steps: int) -> None:
    sigmas = make_sigmas(FLUX_SCHEDULER, steps, tokens)
    shift = math.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256))
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    expected = shift / (shift + (1 / even - 1))
    assert len(sigmas) == steps + 1
    assert torch.allclose(sigmas[:-1].double(), expected, atol=1e-6)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_a_fixed_shift_replaces_the_schedulers() -> None:
    even = torch.linspace(1, 0.1, 10, dtype=torch.float64)
    for s in (0.5, 1.0, 3.0):
        expected = s * even / (1 + (s - 1) * even)
        assert torch.allclose(make_sigmas(FLUX_SCHEDULER, 10, 99, s)[:-1].double(), expected)


@pytest.mark.parametrize(
    ("denoise", "num_steps"), [(1.0, 10), (0.7, 7), (0.75, 8), (0.05, 1), (0.01, 1)]
)
def test_strength_keeps_the_late_steps(denoise: float, num_steps: int) -> None:
    sigmas = torch.linspace(1, 0, 11)
    assert torch.equal(truncate_schedule(sigmas, denoise), sigmas[10 - num_steps :])


def test_sampler_is_exact_on_straight_paths() -> None:
    image, noise = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    steps = []
    result = sample(
        lambda x, sigma: noise - image,
        add_noise(image, noise, torch.tensor(1.0)),
        torch.tensor([1.0, 0.7, 0.1, 0.0]),
        lambda i, x0: steps.append((i, x0)),
    )
    assert torch.allclose(result, image, atol=1e-6)
    assert [i for i, _ in steps] == [0, 1, 2]
    assert all(torch.allclose(x0, image, atol=1e-6) for _, x0 in steps)


def test_sampler_is_of_first_order() -> None:
    """dx/dsigma = x from 1 to 0 ends at x / e; Euler's error halves with the step."""

    def error(steps: int) -> float:
        end = sample(lambda x, s: x, torch.ones(1).double(), torch.linspace(1, 0, steps + 1))
        return abs(float(end) - math.exp(-1))

    assert 1.8 < error(50) / error(100) < 2.2


def test_predict_x0_inverts_the_straight_path() -> None:
    image, noise = torch.randn(2, 7, dtype=torch.float64)
    for sigma in (0.1, 0.5, 1.0):
        x = add_noise(image, noise, torch.tensor(sigma))
        assert torch.allclose(predict_x0(x, torch.tensor(sigma), noise - image), image)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 12)])
def test_packing_round_trip_and_against_diffusers(height: int, width: int) -> None:
    from diffusers import FluxFillPipeline

    latents = torch.randn(3, 5, height, width)
    packed = pack_latents(latents)
    assert torch.equal(unpack_latents(packed, height, width), latents)
    assert torch.equal(packed, FluxFillPipeline._pack_latents(latents, 3, 5, height, width))
    ids = FluxFillPipeline._prepare_latent_image_ids(
        1, height // 2, width // 2, torch.device("cpu"), torch.float32
    )
    assert torch.equal(position_ids(height, width, torch.device("cpu")), ids)


def test_vae_factor_counts_the_halvings() -> None:
    assert vae_factor({"block_out_channels": (128, 256, 512, 512)}) == 8
    assert vae_factor({"block_out_channels": (16, 32, 64)}) == 4


def test_cache_forgets_the_oldest_and_copies() -> None:
    cache = TensorCache(max_bytes=2 * 40)
    tensors = [torch.full((10,), float(i)) for i in range(3)]
    for i, tensor in enumerate(tensors):
        cache.put(i, (tensor,))
        cache.get(0)
    assert cache.get(1) is None
    assert cache.get(0) is not None
    tensors[2].zero_()
    cached = cache.get(2)
    assert cached is not None
    assert (cached[0] == 2).all()


def test_cache_entries_made_in_inference_mode_can_be_trained_on() -> None:
    cache = TensorCache(1 << 20)
    with torch.inference_mode():
        cache.put("x", (torch.ones(3),))
    cached = cache.get("x")
    assert cached is not None
    weight = torch.ones(3, requires_grad=True)
    (weight * cached[0]).sum().backward()
    assert weight.grad is not None


def test_digest_tells_contents_shapes_and_types_apart() -> None:
    a = torch.zeros(4)
    assert digest(a) == digest(torch.zeros(4))
    variants = [torch.ones(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float64)]
    assert len({digest(t) for t in [a, *variants]}) == 4


def test_preview_recovers_a_linear_vae() -> None:
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(3, 8, 8, generator=generator) * 2 - 1
    mixing = torch.randn(5, 3, generator=generator)
    latents = torch.einsum("lc,chw->lhw", mixing, small) + 0.3
    pixels = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    weights = fit_preview(latents, pixels)
    preview = preview_image(latents, weights, 1)
    assert (preview - (small / 2 + 0.5).permute(1, 2, 0)).abs().max() < 0.02


def test_leaner_plans_end() -> None:
    plan = Plan(rows=4, batched_cfg=True, tiled_vae=False)
    lean = plan.leaner()
    assert lean == Plan(rows=1, batched_cfg=False, tiled_vae=True)
    assert lean is not None
    assert lean.leaner() is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shapes differ"), False),
    ],
    ids=["cuda", "python", "cpu", "driver", "driver-other", "other"],
)
def test_out_of_memory_is_told_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
