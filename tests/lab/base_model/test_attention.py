"""Attention written out against torch's own in float64."""

import torch
import torch.nn.functional as F

from onereward.lab.base_model.attention import PlainAttention, plain_attention


def test_written_out_attention_is_attention():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 8, generator=generator) for _ in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(plain_attention(q, k, v).double(), exact, atol=1e-6, rtol=0)


def test_the_mode_replaces_unmasked_attention_only():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 1, 5, 4, generator=generator).requires_grad_()
    mask = torch.zeros(5, 5)
    with PlainAttention():
        plain = F.scaled_dot_product_attention(q, key=q, value=q)
        masked = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
        causal = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert "Softmax" not in type(masked.grad_fn).__name__
    torch.testing.assert_close(plain, masked)
    assert not torch.allclose(plain, causal)
