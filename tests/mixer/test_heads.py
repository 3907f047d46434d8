"""What mixers with heads share: one that is its equation alone keeps the contract, and no group repeats its keys."""

import pytest
import torch
import torch.nn.functional as F

from layersmith.check import check
from layersmith.contract import State
from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.shaped_attention import ShapedAttention
from layersmith.mixer.shared.chunked import additive_scan
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.softmax import SoftmaxAttention


class FastWeights(HeadMixer):
    """y_t = q_t sum_{s<=t} k_s^T v_s: as short as a new mixer can be. Its state is the sum."""

    def __init__(self, d_model: int, n_heads: int, rope_theta: float = 100.0, qk_norm: bool = True):
        super().__init__(d_model, n_heads, rope_theta=rope_theta, qk_norm=qk_norm)

    def mix(self, q, k, v, state: State | None, mask):
        if mask is not None:
            k = k * mask[:, None, :, None]
        before = k.new_zeros(*k.shape[:2], self.head_dim, self.head_dim) if state is None else state["sum"]
        y, total = additive_scan(q, k, v, before, 8)
        return y, {"sum": total}


def test_a_mixer_that_is_its_equation_alone_keeps_the_contract():
    results = check(f"{__name__}:FastWeights", {"d_model": 16, "n_heads": 4})
    assert [f"{r.check}: {r.detail}" for r in results if not r.passed] == []
    assert {"chunked", "padded_decode", "bfloat16"} <= {r.check for r in results if r.passed and not r.skipped_reason}


@torch.no_grad()
def test_it_computes_its_equation():
    torch.manual_seed(0)
    m = FastWeights(8, 2).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    q, k, v = m.project(x, None, None)
    want = torch.zeros_like(q)
    for t in range(6):
        for s in range(t + 1):
            want[:, :, t] += (q[:, :, t] * k[:, :, s]).sum(-1, keepdim=True) * v[:, :, s]
    joined = torch.cat([want[:, head] for head in range(2)], dim=-1)
    torch.testing.assert_close(m(x)[0], m.o(joined), atol=1e-12, rtol=0)


@torch.no_grad()
def test_heads_are_normalised_before_they_are_rotated():
    """Both at once commute only while the gain of the norm is one number for all channels."""
    torch.manual_seed(0)
    m = FastWeights(8, 2).double()
    m.q_norm.weight.uniform_(0.5, 2)
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    q, _, v = m.project(x, None, None)
    raw = m.q(x)[0].view(3, 2, 4)
    for t in range(3):
        for head in range(2):
            h = raw[t, head]
            a = (h / (h.square().mean() + m.q_norm.eps).sqrt() * m.q_norm.weight).view(2, 2)
            angle = t * torch.tensor([1.0, 0.1], dtype=torch.float64)
            turned = torch.cat([a[0] * angle.cos() - a[1] * angle.sin(), a[1] * angle.cos() + a[0] * angle.sin()])
            torch.testing.assert_close(q[0, head, t], turned, atol=1e-12, rtol=0)
    torch.testing.assert_close(v[0, :, 1].flatten(), m.v(x)[0, 1], atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {"window": 3}, {"causal": False}])
def test_keys_and_values_of_a_group_are_not_repeated(monkeypatch, config):
    seen = []
    plain = F.scaled_dot_product_attention

    def noted(q, k, v, **options):
        seen.append((q.shape[1], k.shape[1], v.shape[1], options["enable_gqa"]))
        return plain(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    m = SoftmaxAttention(16, 4, n_kv_heads=2, **config)
    _, state = m(torch.randn(2, 5, 16))
    if m.streams:
        _, state = m(torch.randn(2, 1, 16), state)
        assert state["k"].shape[1] == state["v"].shape[1] == 2
    assert set(seen) == {(4, 2, 2, True)}


@pytest.mark.parametrize("kind", [SoftmaxAttention, LinearAttention, ShapedAttention, FastWeights])
def test_a_refusal_names_the_mixer_that_was_asked_for(kind):
    with pytest.raises(ValueError, match=f"^{kind.__name__}: d_model=16 is not a multiple of n_heads=3"):
        kind(16, 3)
