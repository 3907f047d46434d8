"""Top-k mixture of experts: against a loop over tokens and experts, and side by side with transformers' Mixtral."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from layersmith.contract import aux_losses
from layersmith.ffn.glu import GLU
from layersmith.ffn.shared.routing import balance_loss
from layersmith.ffn.topk_moe import TopKMoE


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 9, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def moe(**config) -> TopKMoE:
    torch.manual_seed(1)
    return TopKMoE(**{"d_model": 6, "d_expert": 4, "n_experts": 5, "k": 2, **config}).double().eval()


def times(weight, v):
    return [sum(w * a for w, a in zip(row, v, strict=True)) for row in weight.tolist()]


def by_loops(m: TopKMoE, token: list[float]) -> list[float]:
    logits = times(m.router, token)
    best = sorted(range(len(logits)), key=lambda e: -logits[e])[: m.k]
    total = sum(math.exp(logits[e]) for e in (best if m.renormalize else range(len(logits))))
    y = [0.0] * len(token)
    for e in best:
        hidden = times(m.experts.up[e], token)
        opened = hidden if m.experts.gate is None else times(m.experts.gate[e], token)
        silu = [g / (1 + math.exp(-g)) for g in opened]
        hidden = silu if m.experts.gate is None else [s * h for s, h in zip(silu, hidden, strict=True)]
        weight = math.exp(logits[e]) / total
        y = [a + weight * b for a, b in zip(y, times(m.experts.down[e], hidden), strict=True)]
    return y


@pytest.mark.oracle("topk_moe")
@pytest.mark.parametrize("config", [{}, {"k": 1}, {"k": 5}, {"gated": False}, {"renormalize": False}])
def test_by_loops(x, config):
    m = moe(**config)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("topk_moe")
def test_all_experts_and_an_even_router_are_the_dense_glu_cut_into_experts(x):
    m, dense = moe(k=5), GLU(6, 20).double()
    with torch.no_grad():
        m.router.zero_()
        m.experts.gate.copy_(dense.gate.weight.unflatten(0, (5, 4)))
        m.experts.up.copy_(dense.up.weight.unflatten(0, (5, 4)))
        m.experts.down.copy_(5 * dense.down.weight.unflatten(1, (5, 4)).transpose(0, 1))
    torch.testing.assert_close(m(x), dense(x))


def test_equal_experts_are_one_expert(x):
    m = moe()
    with torch.no_grad():
        for parameter in m.experts.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    one = moe(n_experts=1, k=1)
    one.experts.load_state_dict({k: v[:1] for k, v in m.experts.state_dict().items()})
    torch.testing.assert_close(m(x), one(x))


@pytest.mark.official("topk_moe")
@pytest.mark.parametrize("k", [1, 2, 4])
def test_mixtral(k):
    torch.manual_seed(0)
    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=4, num_experts_per_tok=k)
    theirs, ours = MixtralSparseMoeBlock(config), TopKMoE(16, 24, 4, k)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router)
        theirs.experts.gate_up_proj.copy_(torch.cat([ours.experts.gate, ours.experts.up], dim=1))
        theirs.experts.down_proj.copy_(ours.experts.down)
    x = torch.randn(2, 50, 16, requires_grad=True)
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    weight = torch.randn_like(y)
    slopes = torch.autograd.grad((y * weight).sum(), [x, ours.router, ours.experts.down])
    expected = torch.autograd.grad(
        (expected * weight).sum(), [x, theirs.gate.weight, theirs.experts.down_proj], allow_unused=True
    )
    for a, b in zip(slopes, expected, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, atol=1e-5, rtol=1e-4)


def test_balance_loss_is_reported_in_training_alone(x):
    m = moe(balance_weight=0.5)
    m(x)
    assert aux_losses(m) == {}
    m.train()(x)
    p = (x.reshape(-1, 6) @ m.router.T).softmax(-1)
    torch.testing.assert_close(aux_losses(m)["balance"], 0.5 * balance_loss(p, p.topk(2).indices))
    unweighted = moe(balance_weight=0.0).train()
    unweighted(x)
    assert aux_losses(unweighted) == {}


@pytest.mark.parametrize("shape", [(1, 1), (2, 9)])
def test_cost_is_that_of_the_chosen_experts(shape):
    m, tokens = moe(), shape[0] * shape[1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        m(torch.randn(*shape, 6, dtype=torch.double))
    assert counter.get_total_flops() == m.cost(*shape).flops == 2 * tokens * (6 * 5 + 2 * 3 * 6 * 4)
    assert (m.cost().params, m.cost().active_params) == (30 + 5 * 72, 30 + 2 * 72)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 6}, "k=6 experts per token, but there are only n_experts=5"),
        ({"k": 0}, "k must be a positive integer"),
        ({"balance_weight": -1.0}, "balance_weight must be at least 0"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        moe(**config)
