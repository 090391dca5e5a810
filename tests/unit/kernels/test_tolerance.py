"""The rule for kernels, itself: what it must refuse."""

from __future__ import annotations

import pytest
import torch

from support.tolerance import FLOOR, assert_as_exact, assert_equal_models, assert_model_as_exact


@pytest.mark.parametrize("dtype", [d for d in FLOOR if d is not torch.float64], ids=str)
def test_one_per_cent_fails(dtype: torch.dtype):
    truth = torch.randn(64, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = (truth * 3).to(dtype) / 3  # two roundings, as an unfused path has
    assert_as_exact(truth.to(dtype), plain, truth)
    with pytest.raises(AssertionError, match="is off by"):
        assert_as_exact((truth * 1.01).to(dtype), plain, truth)
    with pytest.raises(AssertionError, match="is off by"):
        assert_as_exact(truth.to(dtype).roll(1, 0), plain, truth)


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
def test_one_per_cent_fails_between_models(dtype: torch.dtype):
    plain = torch.randn(64, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_equal_models((plain * (1 + FLOOR[dtype])).to(dtype), plain.to(dtype))
    with pytest.raises(AssertionError, match="is off by"):
        assert_equal_models((plain * 1.01).to(dtype), plain.to(dtype))
    with pytest.raises(AssertionError, match="is off by"):
        assert_equal_models(torch.full_like(plain, torch.nan).to(dtype), plain.to(dtype))
    with pytest.raises(AssertionError, match="is expected"):
        assert_equal_models(plain[:1].to(dtype), plain.to(dtype))


@pytest.mark.parametrize("dtype", [d for d in FLOOR if d is not torch.float64], ids=str)
def test_one_per_cent_of_one_result_of_a_model_fails(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    truth = [torch.randn(64, 48, generator=generator, dtype=torch.float64) for _ in range(50)]
    plain = [(t * 3).to(dtype) / 3 for t in truth]
    results = [t.to(dtype) for t in truth]
    assert_model_as_exact(results, plain, truth)
    with pytest.raises(AssertionError, match="result 7 is off by"):
        assert_model_as_exact(
            [*results[:7], (truth[7] * 1.01).to(dtype), *results[8:]], plain, truth
        )
    # Less than a model's floor, but in all results.
    with pytest.raises(AssertionError, match="all are off by"):
        assert_model_as_exact([(t * (1 + 5 * FLOOR[dtype])).to(dtype) for t in truth], plain, truth)


def test_nan_wrong_shape_and_wrong_type_fail():
    truth = torch.ones(3, dtype=torch.float64)
    plain = truth.float()
    with pytest.raises(AssertionError, match="is off by"):
        assert_as_exact(torch.full((3,), torch.nan), plain, truth)
    with pytest.raises(AssertionError, match="is expected"):
        assert_as_exact(torch.ones(1, 3), plain, truth)
    with pytest.raises(AssertionError, match="is expected"):
        assert_as_exact(torch.ones(3, dtype=torch.float16), plain, truth)
