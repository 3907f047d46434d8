"""Experts over positions: against loops over channels with their routes counted by hand, and with one expert."""

import math

import pytest
import torch

from layersmith.contract import aux_losses
from layersmith.mixer.mlp_mixer import MLPMixer
from layersmith.mixer.sparse_mlp import SparseMLP


def sparse(**config) -> SparseMLP:
    torch.manual_seed(0)
    return SparseMLP(**{"d_model": 7, "token_hidden": 4, "length": 5, "n_experts": 3, "k": 2, **config}).double()


def expert(m, e, v):
    experts = m.experts
    hidden = torch.nn.functional.gelu(experts.up[e] @ v + experts.up_bias[e])
    return experts.down[e] @ hidden + experts.down_bias[e]


@pytest.mark.oracle("sparse_mlp")
@torch.no_grad()
@pytest.mark.parametrize("capacity", [0.5, 1.25, 9.0])
def test_by_loops(capacity):
    m, x = sparse(capacity=capacity), torch.randn(2, 5, 7, dtype=torch.float64)
    room, dropped = min(7, math.ceil(capacity * 2 * 7 / 3)), 0
    for b in range(2):
        share = [(m.router @ x[b, :, c]).softmax(0).tolist() for c in range(7)]
        sent = [sorted(range(3), key=lambda e: -share[c][e])[:2] for c in range(7)]
        want = torch.zeros(5, 7, dtype=torch.float64)
        for e in range(3):
            asking = sorted((c for c in range(7) if e in sent[c]), key=lambda c: -share[c][e])
            dropped += len(asking[room:])
            for c in asking[:room]:
                want[:, c] += share[c][e] * expert(m, e, x[b, :, c])
        torch.testing.assert_close(m(x)[0][b], want, atol=1e-12, rtol=0)
    assert (dropped == 0) == (capacity > 2)


@pytest.mark.oracle("sparse_mlp")
@torch.no_grad()
def test_one_expert_is_the_mlp_mixer():
    m, plain = sparse(n_experts=1, k=1), MLPMixer(7, token_hidden=4, length=5, causal=False).double()
    plain.tokens.load_state_dict({name: parameter[0] for name, parameter in m.experts.state_dict().items()})
    x = torch.randn(2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], plain(x)[0], atol=1e-12, rtol=0)


def test_the_loss_is_least_where_channels_are_spread_evenly():
    m = sparse(n_experts=2, k=1, d_model=4, length=2, balance=1.0).train()
    with torch.no_grad():
        m.router.copy_(torch.eye(2) * 50)
    even = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]]).double()
    m(even)
    assert aux_losses(m)["balance"].item() == pytest.approx(1.0)
    m(even[:, :, [0, 0, 0, 0]])
    assert aux_losses(m)["balance"].item() == pytest.approx(2.0)


@pytest.mark.parametrize("wrong", [{"k": 4}, {"capacity": 0.0}])
def test_settings_that_route_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sparse(**wrong)
