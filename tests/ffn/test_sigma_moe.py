"""sigma-MoE, against a loop over tokens and experts, and as the dense MLP it contains."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.contract import aux_losses
from layersmith.ffn.mlp import MLP
from layersmith.ffn.sigma_moe import SigmaMoE


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 9, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def moe(**config) -> SigmaMoE:
    torch.manual_seed(1)
    return SigmaMoE(**{"d_model": 6, "d_expert": 4, "n_experts": 5, "k": 2, **config}).double()


def by_loops(m: SigmaMoE, token: list[float], hidden: set[int] = frozenset()) -> list[float]:
    """One token; `hidden` experts are not visible to the choice."""
    router, up, down = m.router.weight.tolist(), m.up.tolist(), m.down.tolist()
    score = [1 / (1 + math.exp(-sum(w * v for w, v in zip(row, token, strict=True)))) for row in router]
    best = sorted((e for e in range(len(score)) if e not in hidden), key=lambda e: -score[e])[: m.k]
    y = [0.0] * len(token)
    for e in best:
        h = [max(0.0, sum(w * v for w, v in zip(row, token, strict=True))) for row in up[e]]
        for d, row in enumerate(down[e]):
            y[d] += score[e] * sum(w * v for w, v in zip(row, h, strict=True))
    return y


@pytest.mark.oracle("sigma_moe")
@pytest.mark.parametrize("k", [1, 2, 5])
def test_by_loops(x, k):
    m = moe(k=k)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9)


@pytest.mark.oracle("sigma_moe")
def test_all_experts_with_score_one_are_the_dense_relu_mlp(x):
    m, dense = moe(k=5), MLP(6, 20, act="relu", bias=False).double()
    with torch.no_grad():
        m.up.copy_(dense.up.weight.unflatten(0, (5, 4)))
        m.down.copy_(dense.down.weight.unflatten(1, (5, 4)).transpose(0, 1))
        m.router.weight.copy_(1e4 * torch.eye(5, 6))  # sigmoid of a huge logit is 1
    positive = x.abs() + 0.1
    torch.testing.assert_close(m(positive), dense(positive), rtol=1e-5, atol=1e-8)


@pytest.mark.oracle("sigma_moe")
def test_entropy_loss_by_formula(x):
    m = moe(entropy_weight=0.5).train()
    m(x)
    logits = (x.reshape(-1, 6) @ m.router.weight.T).tolist()
    p = [0.0] * 5
    for row in logits:
        total = sum(math.exp(v) for v in row)
        p = [a + math.exp(v) / total / len(logits) for a, v in zip(p, row, strict=True)]
    expected = 0.5 * sum(v * math.log(v) for v in p)
    assert aux_losses(m)["entropy"].item() == pytest.approx(expected, rel=1e-9)
    assert expected >= 0.5 * -math.log(5)  # equal use of all experts is the lowest possible


def test_entropy_loss_spreads_the_use_of_experts(x):
    m = moe(entropy_weight=1.0).train()
    with torch.no_grad():
        m.router.weight[0] += 3 * x.reshape(-1, 6).mean(0)  # one favourite expert
    optimizer = torch.optim.SGD([m.router.weight], lr=1.0)
    losses = []
    for _ in range(60):
        m(x)
        loss = aux_losses(m)["entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert losses[-1] == pytest.approx(-math.log(5), abs=0.01)


def test_no_auxiliary_loss_in_evaluation_or_with_weight_zero(x):
    evaluation, unweighted = moe().eval(), moe(entropy_weight=0.0).train()
    evaluation(x)
    unweighted(x)
    assert aux_losses(evaluation) == aux_losses(unweighted) == {}


def test_expert_dropout_hides_experts_from_the_choice_without_rescaling(x):
    m = moe(expert_dropout=0.4).train()
    torch.manual_seed(5)
    got = m(x).reshape(-1, 6).tolist()
    torch.manual_seed(5)
    drawn = torch.rand(18, 5, dtype=torch.double) < 0.4
    assert drawn.any()
    for token, y, mask in zip(x.reshape(-1, 6).tolist(), got, drawn, strict=True):
        assert y == pytest.approx(by_loops(m, token, set(mask.nonzero().flatten().tolist())), rel=1e-9, abs=1e-12)


def test_expert_dropout_is_off_in_evaluation(x):
    m = moe(expert_dropout=0.9).eval()
    torch.testing.assert_close(m(x), moe(expert_dropout=0.0).eval()(x))


def test_dropping_every_expert_gives_zero_not_nan(x):
    m = moe(expert_dropout=0.999).train()
    torch.manual_seed(0)
    y = m(x)
    assert torch.isfinite(y).all()
    y.sum().backward()
    assert torch.isfinite(m.router.weight.grad).all()


def test_start_is_dense_equivalent():
    m = SigmaMoE(256, 64, 8, 2)
    assert m.up.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert m.down.std().item() == pytest.approx((8 * 64) ** -0.5, rel=0.02)
    torch.testing.assert_close(m.router.weight.norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("shape", [(1, 1), (2, 9)])
def test_cost_is_that_of_the_chosen_experts(shape):
    m = moe()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        m(torch.randn(*shape, 6, dtype=torch.double))
    tokens = shape[0] * shape[1]
    assert counter.get_total_flops() == 2 * tokens * (6 * 5 + 2 * 2 * 6 * 4)
    cost = m.cost(*shape)
    assert cost.flops == counter.get_total_flops()
    assert (cost.params, cost.active_params) == (30 + 5 * 48, 30 + 2 * 48)
    assert cost.weight_bytes == 8 * cost.params


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"k": 6}, "k=6 experts per token, but there are only n_experts=5"),
        ({"k": 0}, "k must be a positive integer"),
        ({"expert_dropout": 1.0}, r"expert_dropout must lie in \[0, 1\)"),
        ({"expert_dropout": -0.1}, "expert_dropout"),
        ({"entropy_weight": -1.0}, "entropy_weight"),
        ({"entropy_weight": float("nan")}, "entropy_weight"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        moe(**config)
