"""Domain adapters: by loops, as the feed-forward they begin as, and a gate that finds the adapter of a domain."""

import math

import pytest
import torch

from layersmith.ffn.domain_adapters import DomainAdapters
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP


def times(matrix, vector):
    return [sum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix]


def gelu(e):
    return e * (1 + math.erf(e / math.sqrt(2))) / 2


@pytest.mark.oracle("domain_adapters")
@torch.no_grad()
@pytest.mark.parametrize("gated", [True, False])
def test_by_loops(gated):
    torch.manual_seed(0)
    m = DomainAdapters(5, 7, n_adapters=3, d_adapter=4, act="relu", gated=gated, bias=True).double()
    for parameter in m.parameters():
        parameter.normal_()
    x = torch.randn(2, 3, 5, dtype=torch.double)
    for token, y in zip(x.reshape(-1, 5).tolist(), m(x).reshape(-1, 5), strict=True):

        def of(linear, vector):
            return [a + b for a, b in zip(times(linear.weight.tolist(), vector), linear.bias.tolist(), strict=True)]

        h = of(m.dense.up, token)
        if gated:
            h = [max(0.0, g) * e for g, e in zip(of(m.dense.gate, token), h, strict=True)]
        else:
            h = [max(0.0, e) for e in h]
        scores = [math.exp(s) for s in times(m.gate.tolist(), h)]
        want = of(m.dense.down, h)
        for k in range(3):
            low = [gelu(e + b) for e, b in zip(times(m.enter[k].tolist(), h), m.enter_bias[k].tolist(), strict=True)]
            added = [e + b for e, b in zip(times(m.leave[k].tolist(), low), m.leave_bias[k].tolist(), strict=True)]
            want = [w + scores[k + 1] / sum(scores) * a for w, a in zip(want, added, strict=True)]
        torch.testing.assert_close(y, torch.tensor(want, dtype=torch.double), rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("domain_adapters")
@pytest.mark.parametrize("dense", [GLU(6, 5), MLP(6, 5, act="relu")], ids=["glu", "mlp"])
def test_it_begins_as_the_feed_forward_that_was_there(dense):
    x, m = torch.randn(7, 6), DomainAdapters.from_dense(dense, 2, 3)
    assert torch.equal(m(x), dense(x))
    assert m.dense.up.weight is not dense.up.weight


@pytest.mark.oracle("domain_adapters")
def test_two_new_domains_are_learnt_while_the_old_one_stays():
    """The first input tells the domain: an old one, on which nothing is to change, and two with shifts at odds."""
    generator = torch.Generator().manual_seed(0)
    domain = torch.randint(0, 3, (384,), generator=generator)
    x = torch.randn(384, 8, generator=generator)
    x[:, :3] = 3.0 * torch.nn.functional.one_hot(domain, 3)
    torch.manual_seed(0)
    dense = MLP(8, 32, act="relu")
    old = dense(x).detach()
    shift = torch.randn(8, generator=generator)
    wanted = old + torch.tensor([0.0, 1.0, -1.0])[domain][:, None] * shift
    m = DomainAdapters.from_dense(dense, 2, 4)
    m.dense.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (m(x) - wanted).square().mean().backward()
        optimizer.step()
    wrong = [float((m(x) - wanted).square()[domain == d].mean()) for d in range(3)]
    size = float(shift.square().mean())
    assert max(wrong) < 0.1 * size
    assert all(torch.equal(a, b) for a, b in zip(m.dense.parameters(), dense.parameters(), strict=True))


def test_what_it_adds_is_counted():
    m = DomainAdapters(8, 16, n_adapters=3, d_adapter=4)
    assert m.cost().params - GLU(8, 16).cost().params == 3 * (4 * 16 + 4 + 8 * 4 + 8) + 4 * 16
