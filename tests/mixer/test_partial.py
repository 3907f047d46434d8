"""Partial attention: by loops, and plain attention where the small feed-forward is the identity."""

import math

import pytest
import torch

from layersmith.mixer.partial import PartialAttention
from layersmith.mixer.softmax import SoftmaxAttention

D, HEADS = 8, 2


def part(**config) -> PartialAttention:
    torch.manual_seed(0)
    return PartialAttention(D, HEADS, **config).double()


def affine(linear: torch.nn.Linear, x: list[float]) -> list[float]:
    bias = [0.0] * linear.out_features if linear.bias is None else linear.bias.tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(linear.weight.tolist(), bias, strict=True)]  # fmt: skip


def by_loops(m: PartialAttention, x: list[list[float]]) -> list[list[float]]:
    attention, size = m.attention, D // HEADS
    q, k, v = ([affine(linear, token) for token in x] for linear in (attention.q, attention.k, attention.v))
    out = []
    for t, token in enumerate(x):
        joined = []
        for h in range(HEADS):
            own = slice(h * size, (h + 1) * size)
            logits = [sum(a * b for a, b in zip(q[t][own], k[s][own], strict=True)) / math.sqrt(size)
                      for s in range(t + 1)]  # fmt: skip
            weights = [math.exp(logit) for logit in logits]
            o = [sum(w * v[s][own][i] for s, w in enumerate(weights)) / sum(weights) for i in range(size)]
            hidden = [max(0.0, value) for value in affine(attention.o.up, o)]
            small = affine(attention.o.down, hidden)
            joined += [f + e for f, e in zip(small, o, strict=True)] if attention.o.residual else small
        if m.gate is not None:
            joined = [max(0.0, u) * f for u, f in zip(affine(m.gate, token), joined, strict=True)]
        out.append(affine(m.o, joined))
    return out


@pytest.mark.oracle("partial_attention")
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_by_loops(gated, residual):
    m = part(gated=gated, ratio=3, residual=residual)
    x = torch.randn(5, D, dtype=torch.double)
    for y, expected in zip(m(x[None])[0][0].tolist(), by_loops(m, x.tolist()), strict=True):
        assert y == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("partial_attention")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "rope_theta": 100.0, "qk_norm": True}, {"causal": False}])
@pytest.mark.parametrize("residual", [True, False])
def test_an_identity_feed_forward_makes_it_plain_attention(config, residual):
    m, plain = part(ratio=2, residual=residual, **config), SoftmaxAttention(D, HEADS, **config).double()
    eye = torch.eye(D // HEADS, dtype=torch.double)
    with torch.no_grad():
        small = {"up.weight": torch.cat([eye, -eye]), "up.bias": m.attention.o.up.bias * 0}
        back = torch.cat([eye, -eye], 1)
        small |= {"down.weight": back * (0 if residual else 1), "down.bias": m.attention.o.down.bias * 0}
        shared = {k: v for k, v in plain.state_dict().items() if not k.startswith("o.")}
        m.attention.load_state_dict(shared | {f"o.{k}": v for k, v in small.items()})
        m.o.load_state_dict(plain.o.state_dict())
        x = torch.randn(2, 7, D, dtype=torch.double)
        torch.testing.assert_close(m(x)[0], plain(x)[0], rtol=1e-12, atol=1e-14)


def test_it_has_fewer_parameters_than_attention_and_a_feed_forward_of_its_hidden_width():
    m = PartialAttention(64, 8, ratio=4)
    hidden = 8 * 4 * (64 // 8)  # all heads together
    assert m.cost().params < 4 * 64 * 64 + 2 * 64 * hidden


def test_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="ratio must be a positive integer"):
        part(ratio=0)
    with pytest.raises(ValueError, match="not causal here"):
        part(causal=False)(torch.randn(1, 2, D, dtype=torch.double), {})
