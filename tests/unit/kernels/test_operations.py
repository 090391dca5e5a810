"""Every operation against float64, forward and backward, as a kernel and as plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from onereward import kernels
from onereward.kernels import adaln, cfg_euler, gelu, norm_rope
from support.kernel_cases import CASES, DEVICE, Case, Run, angles, run
from support.tolerance import assert_as_exact

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SLIM = ("joint_qkv_norm_rope-three_heads", "adaln_modulate-odd", "gated_residual_adaln-strided")


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # as it should, in a sigmoid
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_as_exact_as_unfused(backend: str, name: str, dtype: str):
    case, kind = CASES[name], DTYPES[dtype]
    inputs = case.inputs()
    with kernels.use_backend(backend):
        results = run(case.fused, inputs, kind)
    with kernels.use_backend("reference"):
        truth = run(case.fused, inputs, torch.float64)
    plain = run(case.plain, inputs, kind)
    for i, (result, expected, exact) in enumerate(zip(results, plain, truth, strict=True)):
        assert_as_exact(result, expected, exact, f"{name}, result {i}")


@pytest.mark.parametrize("name", CASES)
def test_definition_equals_the_unfused_operations(name: str):
    """In float64 but for diffusers' rotation, which always rounds to float32."""
    case = CASES[name]
    with kernels.use_backend("reference"):
        results = run(case.fused, case.inputs(), torch.float64)
    for a, b in zip(results, run(case.plain, case.inputs(), torch.float64), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SLIM)
def test_forward_is_the_same_without_gradient(name: str):
    case = CASES[name]
    with kernels.use_backend("triton"):
        trained = run(case.fused, case.inputs(), torch.bfloat16)
        sampled = run(case.fused, case.inputs(), torch.bfloat16, with_gradient=False)
    for a, b in zip(trained, sampled, strict=False):
        assert torch.equal(a, b)


def _tiny(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    case = Case(shapes=shapes, fused=torch.stack, plain=torch.stack)
    return [x.requires_grad_() for x in case.inputs()]


def _gradcheck(call: Run, inputs: list[torch.Tensor]) -> None:
    with kernels.use_backend("triton"):
        assert torch.autograd.gradcheck(call, inputs)


def test_gradients_are_those_of_finite_differences():
    cos_sin = angles(1, 4, torch.float64)
    _gradcheck(
        lambda q, k, a, b: kernels.qk_norm_rope(q, k, a, b, cos_sin),
        _tiny((1, 1, 1, 4), (1, 1, 1, 4), (4,), (4,)),
    )
    _gradcheck(kernels.adaln_modulate, _tiny((1, 1, 3), (1, 3), (1, 3)))
    _gradcheck(
        lambda r, g, u, a, b: kernels.gated_residual_adaln(r, g, u, (a, b)),
        _tiny((1, 1, 3), (1, 3), (1, 1, 3), (1, 3), (1, 3)),
    )
    _gradcheck(kernels.concat_gelu, _tiny((1, 1, 2), (1, 1, 3)))
    _gradcheck(
        lambda x, v: kernels.cfg_euler_step(x, v, (0.75, 0.5), 4.0), _tiny((1, 1, 2), (2, 1, 2))
    )


def test_float16_is_clamped_where_diffusers_does():
    big = torch.tensor([[[60000.0, -60000.0, 1.0, 2.0]]], dtype=torch.float16, device=DEVICE)
    gate = torch.ones(1, 4, dtype=torch.float16, device=DEVICE)
    grads = []
    for backend in ("triton", "reference"):
        leaf = big.clone().requires_grad_()
        with kernels.use_backend(backend):
            h = kernels.gated_residual(leaf, gate, big, clamp=True)
        assert h.flatten().tolist() == [65504.0, -65504.0, 2.0, 4.0]
        grads.append(torch.autograd.grad(h.sum(), leaf)[0])
    assert torch.equal(*grads)
    assert grads[0].flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_float16_clamp_hides_no_nan(backend: str):
    big = torch.tensor([[[torch.nan, torch.inf, -torch.inf]]], dtype=torch.float16, device=DEVICE)
    gate = torch.zeros(1, 3, dtype=torch.float16, device=DEVICE)
    with kernels.use_backend(backend):
        h = kernels.gated_residual(big, gate, torch.ones_like(big), clamp=True).flatten()
    assert h[0].isnan()
    assert h[1:].tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_kept_pixels_follow_the_source_bit_for_bit(backend: str):
    (x, v, source, noise) = (
        t.float().detach() for t in _tiny((1, 2, 8), (1, 2, 8), (1, 2, 8), (1, 2, 8))
    )
    keep = torch.zeros(1, 2, 4, device=DEVICE)
    keep[..., 1] = 1
    with kernels.use_backend(backend):
        last, _ = kernels.cfg_euler_step(x, v, (0.5, 0.0), blend=(keep, source, noise))
        free, x0 = kernels.cfg_euler_step(x, v, (0.5, 0.0))
        still, _ = kernels.cfg_euler_step(x, v, (0.5, 0.5))
    is_kept = keep.repeat(1, 1, 2) == 1
    assert torch.equal(last[is_kept], source[is_kept])
    assert torch.equal(last[~is_kept], free[~is_kept])
    assert torch.equal(free, x0), "the last step ends at x0"
    assert torch.equal(still, x)


def test_guidance_of_one_is_the_positive_prompt():
    x, v = (t.float().detach() for t in _tiny((1, 2, 8), (2, 2, 8)))
    with kernels.use_backend("triton"):
        guided, _ = kernels.cfg_euler_step(x, v, (0.5, 0.25), 1.0)
        alone, _ = kernels.cfg_euler_step(x, v[1:].contiguous(), (0.5, 0.25))
    torch.testing.assert_close(guided, alone)


def test_wrong_velocity_or_keep_is_refused():
    x = torch.zeros(2, 3, 8)
    with pytest.raises(ValueError, match="velocity has 3 rows"):
        kernels.cfg_euler_step(x, torch.zeros(3, 3, 8), (1.0, 0.5))
    with pytest.raises(ValueError, match="keep has 3 values"):
        kernels.cfg_euler_step(x, x, (1.0, 0.5), blend=(torch.zeros(2, 3, 3), x, x))


def test_operators_are_registered_correctly():
    shapes = ((1, 2, 2, 4), (4,), (2, 2), (1, 2, 6), (1, 6))
    q, w, a, x, vector = (torch.randn(shape, device=DEVICE) for shape in shapes)
    calls = [
        (norm_rope.forward, ([q], [q], [], [w, w], a, a, 1e-6)),
        (norm_rope.backward, (q, q, [q], [q], [w, w], a, a, 1e-6, True)),
        (adaln.forward, (x, vector, x, vector, vector, 1e-6, False)),
        (adaln.backward, (x, x, x, vector, x, vector, 1e-6, False, [True, True, True])),
        (gelu.forward, (x, x)),
        (gelu.backward, (x, x)),
        (cfg_euler.forward, (x, x, None, None, None, 0.5, 0.25, 1.0)),
        (cfg_euler.backward, (x, x, None, True, torch.float32, 0.5, 0.25, 2.0)),
    ]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operator, arguments in calls:
        torch.library.opcheck(operator, arguments, test_utils=tests)
