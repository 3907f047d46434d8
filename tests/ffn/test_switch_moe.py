"""Switch feed-forward: against a loop over tokens, as the dense feed-forward it contains, with and without capacity."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.contract import aux_losses
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.switch_moe import SwitchMoE


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 9, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def moe(**config) -> SwitchMoE:
    torch.manual_seed(1)
    m = SwitchMoE(**{"d_model": 6, "d_expert": 4, "n_experts": 3, **config}).double().eval()
    with torch.no_grad():
        m.router.mul_(10)  # far from even
    return m


def route(m: SwitchMoE, token: list[float]) -> tuple[int, list[float]]:
    logits = [sum(w * v for w, v in zip(row, token, strict=True)) for row in m.router.tolist()]
    total = sum(math.exp(v) for v in logits)
    return max(range(len(logits)), key=logits.__getitem__), [math.exp(v) / total for v in logits]


def by_loops(m: SwitchMoE, token: list[float]) -> list[float]:
    expert, p = route(m, token)
    hidden = [sum(w * v for w, v in zip(row, token, strict=True)) for row in m.experts.up[expert].tolist()]
    if m.experts.gate is None:
        hidden = [max(0.0, h) for h in hidden]
    else:
        gate = [sum(w * v for w, v in zip(row, token, strict=True)) for row in m.experts.gate[expert].tolist()]
        hidden = [h * max(0.0, g) for h, g in zip(hidden, gate, strict=True)]
    return [p[expert] * sum(w * h for w, h in zip(row, hidden, strict=True)) for row in m.experts.down[expert].tolist()]


@pytest.mark.oracle("switch_moe")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_by_loops(x, gated, training):
    m = moe(gated=gated).train(training)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("switch_moe")
@pytest.mark.parametrize("gated", [False, True])
def test_one_expert_is_the_dense_feed_forward(x, gated):
    dense = GLU(6, 4, act="relu") if gated else MLP(6, 4, act="relu", bias=False)
    m = moe(n_experts=1, gated=gated)
    with torch.no_grad():
        for name in ("gate", "up", "down") if gated else ("up", "down"):
            getattr(m.experts, name)[0] = getattr(dense, name).weight
    torch.testing.assert_close(m(x), dense.double()(x))


def test_equal_experts_are_the_dense_feed_forward_times_the_probability(x):
    m, dense = moe(), MLP(6, 4, act="relu", bias=False).double()
    with torch.no_grad():
        m.experts.up.copy_(dense.up.weight.expand(3, -1, -1))
        m.experts.down.copy_(dense.down.weight.expand(3, -1, -1))
    p = (x @ m.router.T).softmax(-1).amax(-1, keepdim=True)
    torch.testing.assert_close(m(x), p * dense(x))


def test_balance_loss_by_formula(x):
    m = moe(balance_weight=0.5).train()
    m(x)
    used, mass = [0] * 3, [0.0] * 3
    for token in x.reshape(-1, 6).tolist():
        expert, p = route(m, token)
        used[expert] += 1
        mass = [a + b for a, b in zip(mass, p, strict=True)]
    expected = 0.5 * 3 * sum(f * p for f, p in zip(used, mass, strict=True)) / 18**2
    assert aux_losses(m)["balance"].item() == pytest.approx(expected, rel=1e-6)


def test_no_auxiliary_loss_in_evaluation_or_with_weight_zero(x):
    evaluation, unweighted = moe(), moe(balance_weight=0.0).train()
    evaluation(x)
    unweighted(x)
    assert aux_losses(evaluation) == aux_losses(unweighted) == {}


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_tokens_above_the_capacity_get_nothing_in_training_only(x, factor):
    m, tokens = moe(capacity_factor=factor), x.reshape(-1, 6).tolist()
    room, dropped = [math.ceil(factor * 18 / 3)] * 3, 0
    for token, y in zip(tokens, m.train()(x).reshape(-1, 6).tolist(), strict=True):
        expert, _ = route(m, token)
        room[expert] -= 1
        dropped += room[expert] < 0
        expected = by_loops(m, token) if room[expert] >= 0 else [0.0] * 6
        assert y == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert dropped > 0
    torch.testing.assert_close(m.eval()(x), moe()(x))


def test_jitter_is_on_the_router_alone_and_in_training_alone(x):
    m = moe(jitter=0.5)
    torch.testing.assert_close(m(x), moe()(x))
    with torch.no_grad():
        m.router.zero_()  # then whatever the router sees, p = 1/3 and the first expert
    still = m(x)
    torch.testing.assert_close(m.train()(x), still)
    with torch.no_grad():
        m.router.copy_(moe().router)
    assert (m(x) - m.eval()(x)).abs().max() > 1e-6


def test_start_is_a_cut_normal_of_a_tenth_of_the_variance():
    m = SwitchMoE(256, 64, 8)
    for parameter, fan_in in ((m.experts.up, 256), (m.experts.down, 64), (m.router, 256)):
        deviation = (0.1 / fan_in) ** 0.5
        assert parameter.abs().max() <= 2 * deviation
        assert parameter.std().item() == pytest.approx(0.88 * deviation, rel=0.05)  # what cutting at 2 leaves


@pytest.mark.parametrize("shape", [(1, 1), (2, 9)])
def test_cost_is_that_of_one_expert(shape):
    m, tokens = moe(), shape[0] * shape[1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        m(torch.randn(*shape, 6, dtype=torch.double))
    assert counter.get_total_flops() == m.cost(*shape).flops == 2 * tokens * (6 * 3 + 2 * 6 * 4)
    assert (m.cost().params, m.cost().active_params) == (18 + 3 * 48, 18 + 48)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_experts": 0}, "n_experts must be a positive integer"),
        ({"capacity_factor": 0.0}, "capacity_factor must be None or above 0"),
        ({"balance_weight": -1.0}, "balance_weight must be at least 0"),
        ({"jitter": 1.0}, r"jitter must lie in \[0, 1\)"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        moe(**config)
