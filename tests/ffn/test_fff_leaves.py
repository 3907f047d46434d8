"""Fast feedforward with leaves: against a loop over leaves, as the MLPs it contains, and its two losses."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.contract import aux_losses
from layersmith.ffn.fff_leaves import FFFLeaves
from layersmith.ffn.mlp import MLP


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 9, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def fff(**config) -> FFFLeaves:
    torch.manual_seed(1)
    return FFFLeaves(**{"d_model": 6, "depth": 3, "d_leaf": 4, "master_width": 5, **config}).double().eval()


def affine(weight, bias, v):
    return [b + sum(w * a for w, a in zip(row, v, strict=True)) for row, b in zip(weight, bias, strict=True)]


def mlp(up, up_bias, down, down_bias, v):
    return affine(down, down_bias, [max(0.0, h) for h in affine(up, up_bias, v)])


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def chances(m: FFFLeaves, token: list[float]) -> list[float]:
    """Probability of each leaf, from the bits of its number: the first bit is the root's decision."""
    p = [sigmoid(v) for v in affine(m.node.tolist(), m.node_bias.tolist(), token)]
    found = []
    for leaf in range(m.n_leaves):
        node, chance = 0, 1.0
        for bit in f"{leaf:0{m.depth}b}":
            chance *= p[node] if bit == "1" else 1 - p[node]
            node = 2 * node + 1 + int(bit)
        found.append(chance)
    return found


def hard_leaf(m: FFFLeaves, token: list[float]) -> int:
    logits, node = affine(m.node.tolist(), m.node_bias.tolist(), token), 0
    while node < len(logits):
        node = 2 * node + 1 + (logits[node] > 0)
    return node - len(logits)


def by_loops(m: FFFLeaves, token: list[float], share: list[float]) -> list[float]:
    leaves = zip(m.up.tolist(), m.up_bias.tolist(), m.down.tolist(), m.down_bias.tolist(), strict=True)
    y = [0.0] * len(token)
    for weight, leaf in zip(share, leaves, strict=True):
        y = [a + weight * b for a, b in zip(y, mlp(*leaf, token), strict=True)]
    if m.master is not None:
        k = sigmoid(m.k.item())
        up, down = m.master.up, m.master.down
        always = mlp(up.weight.tolist(), up.bias.tolist(), down.weight.tolist(), down.bias.tolist(), token)
        y = [k * a + (1 - k) * b for a, b in zip(y, always, strict=True)]
    return y


@pytest.mark.oracle("fff_leaves")
@pytest.mark.parametrize("config", [{}, {"depth": 1}, {"master_width": 0}])
@pytest.mark.parametrize("training", [False, True])
def test_by_loops(x, config, training):
    m = fff(**config).train(training)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        share = chances(m, token) if training else [float(e == hard_leaf(m, token)) for e in range(m.n_leaves)]
        assert y == pytest.approx(by_loops(m, token, share), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("fff_leaves")
@pytest.mark.parametrize("training", [False, True])
def test_a_tree_without_nodes_is_one_mlp(x, training):
    m, dense = fff(depth=0, master_width=0).train(training), MLP(6, 4, "relu").double()
    with torch.no_grad():
        m.up[0], m.up_bias[0] = dense.up.weight, dense.up.bias
        m.down[0], m.down_bias[0] = dense.down.weight, dense.down.bias
    torch.testing.assert_close(m(x), dense(x))
    assert aux_losses(m) == {}


def test_decided_nodes_make_training_and_use_equal(x):
    m = fff()
    with torch.no_grad():
        m.node.mul_(1e4)
        m.node_bias.mul_(1e4)
    torch.testing.assert_close(m.train()(x), m.eval()(x))


def test_a_logit_of_zero_goes_left():
    m = fff(depth=1, master_width=0)
    with torch.no_grad():
        m.node_bias.zero_()
    token = torch.zeros(1, 6, dtype=torch.double)
    assert m(token)[0].tolist() == pytest.approx(by_loops(m, token[0].tolist(), [1.0, 0.0]))


def test_losses_by_formula(x):
    m = fff(harden_weight=3.0, balance_weight=0.5).train()
    m(x)
    tokens = x.reshape(-1, 6).tolist()
    entropy, load, mass = 0.0, [0] * 8, [0.0] * 8
    for token in tokens:
        for logit in affine(m.node.tolist(), m.node_bias.tolist(), token):
            p = sigmoid(logit)
            entropy -= p * math.log(p) + (1 - p) * math.log(1 - p)
        load[hard_leaf(m, token)] += 1
        mass = [a + b for a, b in zip(mass, chances(m, token), strict=True)]
    losses = aux_losses(m)
    assert losses["harden"].item() == pytest.approx(3.0 * entropy / 7 / len(tokens))
    balance = 8 * sum(a * b for a, b in zip(load, mass, strict=True)) / len(tokens) ** 2
    assert losses["balance"].item() == pytest.approx(0.5 * balance)


def test_no_loss_in_use_or_with_weight_zero(x):
    used, unweighted = fff(), fff(harden_weight=0.0, balance_weight=0.0).train()
    used(x)
    unweighted(x)
    assert aux_losses(used) == aux_losses(unweighted) == {}


def leaf_entropy(m: FFFLeaves, x: torch.Tensor) -> float:
    load = torch.bincount(torch.tensor([hard_leaf(m, t) for t in x.tolist()]), minlength=m.n_leaves) / len(x)
    return float(-torch.xlogy(load, load).sum())


def test_balancing_spreads_tokens_over_leaves():
    m, x = fff(depth=2), torch.randn(200, 6, dtype=torch.double)
    with torch.no_grad():
        m.node_bias.add_(2.0)  # nearly all tokens start in the last leaf
    before = leaf_entropy(m, x)
    optimizer = torch.optim.Adam([m.node, m.node_bias], lr=0.05)
    m.train()
    for _ in range(60):
        m(x)
        optimizer.zero_grad()
        aux_losses(m)["balance"].backward()
        optimizer.step()
    assert before < 0.5
    assert leaf_entropy(m, x) > 1.2  # log(4) = 1.39 is equal use


@pytest.mark.parametrize("shape", [(1, 1), (2, 9)])
def test_cost_is_that_of_one_leaf(shape):
    m = fff()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        m(torch.randn(*shape, 6, dtype=torch.double))
    tokens = shape[0] * shape[1]
    assert counter.get_total_flops() == m.cost(*shape).flops == 2 * tokens * (3 * 6 + 2 * 4 * 6 + 2 * 5 * 6)
    leaf, master = 2 * 4 * 6 + 4 + 6, 2 * 5 * 6 + 5 + 6 + 1
    assert m.cost().params == 8 * leaf + 7 * 7 + master
    assert m.cost().active_params == leaf + 3 * 7 + master


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depth": -1}, "depth must be an integer of at least 0"),
        ({"master_width": -1}, "master_width must be an integer of at least 0"),
        ({"d_leaf": 0}, "d_leaf must be a positive integer"),
        ({"harden_weight": -1.0}, "harden_weight must be at least 0"),
        ({"balance_weight": float("nan")}, "balance_weight must be at least 0"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        fff(**config)
