"""Which attention backend computes, and that it computes attention."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from onereward.fill.transformer import attention
from onereward.fill.transformer.attention import attend, describe_attention
from support.tolerance import assert_equal_models

CPU = torch.device("cpu")
FREE: Any = SimpleNamespace(_attention_backend=None)


def heads() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, 2, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The order among PyTorch's backends at every call of its attention."""
    priorities: list[list[int]] = []
    real = F.scaled_dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        priorities.append(list(torch._C._get_sdp_priority_order()))
        return real(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return priorities


@pytest.mark.parametrize("is_hopper", [False, True], ids=["older", "hopper"])
def test_backend_goes_by_the_device(
    is_hopper: bool, orders: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(torch._C._get_sdp_priority_order())
    monkeypatch.setattr(attention, "is_hopper", lambda *_: is_hopper)
    assert_equal_models(attend(*heads(), FREE), exact(*heads()).float())
    (order,) = orders
    if is_hopper:
        assert order[0] == SDPBackend.CUDNN_ATTENTION.value
        assert describe_attention(CPU, FREE) == "cuDNN, else FlashAttention"
    else:
        assert order == before
        assert describe_attention(CPU, FREE) == "PyTorch's choice"
    assert list(torch._C._get_sdp_priority_order()) == before, "others keep their order"


@pytest.mark.parametrize("is_hopper", [False, True], ids=["older", "hopper"])
def test_users_choice_goes_first(is_hopper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models import attention_dispatch

    backends: list[Any] = []

    def dispatch(q: Tensor, k: Tensor, v: Tensor, *, backend: Any) -> Tensor:
        backends.append(backend)
        return exact(q, k, v).float().unflatten(-1, (q.shape[2], -1))

    monkeypatch.setattr(attention, "is_hopper", lambda *_: is_hopper)
    monkeypatch.setattr(attention_dispatch, "dispatch_attention_fn", dispatch)
    layer: Any = SimpleNamespace(_attention_backend="_native_math")
    assert_equal_models(attend(*heads(), layer), exact(*heads()).float())
    assert describe_attention(CPU, layer) == "_native_math"
    monkeypatch.setenv(attention.OVERRIDE, "flash")
    attend(*heads(), FREE)
    assert describe_attention(CPU, FREE) == "flash"
    assert backends == ["_native_math", None], "diffusers reads the environment itself"
