"""Gated linear attention against float64 loops of its recurrence, and the limits of its decay."""

import math

import pytest
import torch

from layersmith.mixer.gla import GLA
from layersmith.mixer.linear_attention import LinearAttention


def by_loops(m: GLA, x: torch.Tensor) -> torch.Tensor:
    """The whole layer for one sequence x (T, D), one token and memory row at a time."""
    d, group = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads
    q, k, v, logits = m.q(x), m.k(x), m.v(x), m.decay(x)
    out = torch.zeros_like(q)
    for h in range(m.n_kv_heads):
        memory = [torch.zeros(d, dtype=x.dtype) for _ in range(d)]
        for t in range(len(x)):
            for i in range(d):
                decay = (1 / (1 + math.exp(-float(logits[t, h * d + i])))) ** (1 / m.tau)
                memory[i] = decay * memory[i] + k[t, h * d + i] * v[t, h * d : (h + 1) * d]
            for g in range(h * group, (h + 1) * group):
                own = slice(g * d, (g + 1) * d)
                read = sum(q[t, g * d + i] * memory[i] for i in range(d)) / math.sqrt(d)
                out[t, own] = m.norm.weight * read / math.sqrt(float(read @ read) / d + m.norm.eps)
    if m.gate is not None:
        z = m.gate(x)
        out = out * z / (1 + (-z).exp())
    return m.o(out)


@pytest.mark.oracle("gla")
@torch.no_grad()
@pytest.mark.parametrize("settings", [{"tau": 1.0}, {"n_kv_heads": 2, "rank": 2}, {"out_gate": False}])
def test_equals_loops(settings):
    torch.manual_seed(0)
    m = GLA(12, 4, head_dim=3, chunk=8, **settings).double()
    m.norm.weight.normal_()
    m.decay[1].weight.normal_()
    x = torch.randn(2, 13, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@torch.no_grad()
def with_logit(value):
    torch.manual_seed(0)
    m = GLA(16, 4, n_kv_heads=2, out_gate=False, eps=0.0).double()
    m.decay[1].weight.zero_()
    m.decay[1].bias.fill_(value)
    return m, torch.randn(2, 70, 16, dtype=torch.float64)


@pytest.mark.oracle("gla")
@torch.no_grad()
def test_never_forgetting_it_is_linear_attention_normalised_per_head():
    m, x = with_logit(60.0)
    plain = LinearAttention(16, 4, n_kv_heads=2, feature_map="identity", normalize=False).double()
    plain.load_state_dict(m.state_dict(), strict=False)
    plain.o = torch.nn.Identity()
    heads = plain(x)[0].unflatten(-1, (4, 4))
    torch.testing.assert_close(m(x)[0], m.o(m.norm(heads).flatten(-2)), atol=1e-10, rtol=0)


@pytest.mark.oracle("gla")
@torch.no_grad()
def test_always_forgetting_a_token_reads_only_itself():
    m, x = with_logit(-1e4)
    torch.testing.assert_close(m(x)[0][:, 40:41], m(x[:, 40:41])[0], atol=1e-12, rtol=0)


def test_starts_by_forgetting_little():
    """sigmoid(0)^(1 / 16) = 0.958 for an untrained gate: half is left after 16 tokens."""
    m = GLA(16, 4)
    torch.nn.init.zeros_(m.decay[1].bias)
    assert float(m.log_decay(torch.zeros(1, 1, 16)).detach().exp()[0, 0, 0, 0]) == pytest.approx(0.5 ** (1 / 16))


def test_memory_does_not_grow():
    m = GLA(16, 4, n_kv_heads=2)
    assert m.state_bytes(24) == m.state_bytes(1000) == 4 * 2 * 4 * 4


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="tau must be a number above 0"):
        GLA(16, 4, tau=0.0)
    with pytest.raises(ValueError, match="rank must be a positive integer"):
        GLA(16, 4, rank=0)
