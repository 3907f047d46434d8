"""gMLP against loops over tokens and channels, and what its experts are and cost."""

import math

import pytest
import torch

from layersmith.mixer.gmlp import GMLP


def gelu(v):
    return v * (1 + math.erf(v / math.sqrt(2))) / 2


def by_loops(m, x):
    """One sequence x (T, D)."""
    half = m.down.in_features
    hidden = [[gelu(v) for v in row] for row in m.up(x).tolist()]
    u, v = [row[:half] for row in hidden], [row[half:] for row in hidden]
    v = m.norm(torch.tensor(v, dtype=x.dtype)).tolist()
    chunk = half // m.positions.groups
    gated = torch.zeros(len(x), half, dtype=x.dtype)
    for t in range(len(x)):
        for c in range(half):
            w, b = m.positions.weight[c // chunk], m.positions.bias[c // chunk]
            readable = range(t + 1) if m.causal else range(len(x))
            gated[t, c] = u[t][c] * (sum(w[t, s] * v[s][c] for s in readable) + b[t])
    return m.down(gated)


@pytest.mark.oracle("gmlp")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n_experts", [1, 3])
def test_gate_by_loops(causal, n_experts):
    torch.manual_seed(0)
    m = GMLP(5, 6, length=9, causal=causal, n_experts=n_experts).double()
    torch.nn.init.normal_(m.positions.weight)
    torch.nn.init.normal_(m.positions.bias)
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], torch.stack([by_loops(m, row) for row in x]), atol=1e-12, rtol=0)


@pytest.mark.oracle("gmlp")
@torch.no_grad()
def test_experts_with_one_matrix_are_one():
    torch.manual_seed(0)
    one, many = GMLP(6, 8, length=9).double(), GMLP(6, 8, length=9, n_experts=4).double()
    weights = one.state_dict()
    for name in ("positions.weight", "positions.bias"):
        weights[name] = torch.randn_like(weights[name])
    one.load_state_dict(weights)
    repeated = {k: v.expand(4, *v.shape[1:]) if k.startswith("positions.") else v for k, v in weights.items()}
    many.load_state_dict(repeated)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(many(x)[0], one(x)[0], atol=1e-12, rtol=0)


def test_experts_cost_weights_and_no_flops():
    one, many = (GMLP(6, 8, length=16, n_experts=e).cost(1, 16) for e in (1, 4))
    assert many.params - one.params == 3 * (16 * 16 + 16)
    assert many.flops == one.flops


def test_it_starts_as_a_feed_forward_of_every_token():
    torch.manual_seed(0)
    m, x = GMLP(6, 8, length=9).double(), torch.randn(2, 9, 6, dtype=torch.float64)
    u = torch.nn.functional.gelu(m.up(x)).chunk(2, -1)[0]
    torch.testing.assert_close(m(x)[0], m.down(u), atol=5e-3, rtol=0)


def test_chunks_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="n_experts=3 does not divide d_hidden=8"):
        GMLP(6, 8, length=9, n_experts=3)
