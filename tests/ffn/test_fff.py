"""Fast feedforward: against a loop over tokens and levels, as the MLP it contains, and its two ways of computing."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.fff import FFF
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation
from layersmith.kernels import native
from layersmith.kernels.tree import ACTIVATIONS


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 9, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def fff(**config) -> FFF:
    torch.manual_seed(1)
    return FFF(**{"d_model": 6, "depth": 3, **config}).double().eval()


def by_loops(m: FFF, token: list[float]) -> tuple[list[float], set[tuple[int, int]]]:
    """One token with GELU: its output, and the (tree, neuron) pairs it used."""
    y, used = [0.0] * len(token), set()
    for tree, (up, bias, down) in enumerate(zip(m.up.tolist(), m.bias.tolist(), m.down.tolist(), strict=True)):
        n = 0
        while n < len(up):
            logit = bias[n] + sum(w * v for w, v in zip(up[n], token, strict=True))
            gelu = logit * (1 + math.erf(logit / math.sqrt(2))) / 2
            y = [a + gelu * w for a, w in zip(y, down[n], strict=True)]
            used.add((tree, n))
            n = 2 * n + (2 if logit > 0 else 1)
    return y, used


@pytest.mark.oracle("fff")
@pytest.mark.parametrize(("depth", "n_trees"), [(0, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize("training", [False, True])
def test_by_loops(x, depth, n_trees, training):
    m = fff(depth=depth, n_trees=n_trees).train(training)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token)[0], rel=1e-9, abs=1e-12)


@pytest.mark.oracle("fff")
def test_trees_without_branches_are_the_dense_mlp(x):
    m, dense = fff(depth=0, n_trees=8), MLP(6, 8).double()
    with torch.no_grad():
        m.up.copy_(dense.up.weight[:, None])
        m.bias.copy_(dense.up.bias[:, None])
        m.down.copy_(dense.down.weight.T[:, None])
        dense.down.bias.zero_()
    torch.testing.assert_close(m(x), dense(x))


def test_a_token_touches_depth_plus_one_neurons(x):
    m = fff(depth=4, n_trees=2)
    for token in x.reshape(-1, 6):
        m.zero_grad()
        m(token).sum().backward()
        touched = {(t, n) for t, n in m.down.grad.any(dim=2).nonzero().tolist()}
        assert touched == by_loops(m, token.tolist())[1]
        assert len(touched) == 2 * 5
        assert {(t, n) for t, n in m.up.grad.any(dim=2).nonzero().tolist()} == touched


def test_training_and_walking_have_the_same_gradients(x):
    def gradients(training):
        m = fff(n_trees=2).train(training)
        (m(x) * torch.linspace(-1, 1, x.numel()).view_as(x)).sum().backward()
        return [p.grad for p in m.parameters()]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [False, True])
def test_a_logit_of_zero_goes_left(training):
    m = fff(depth=1).train(training)
    with torch.no_grad():
        m.bias.copy_(torch.tensor([[0.0, 1.0, 2.0]]))  # the root's logit is 0 for a token of zeros
    y = m(torch.zeros(1, 6, dtype=torch.double))
    torch.testing.assert_close(y[0], activation("gelu")(torch.tensor(1.0, dtype=torch.double)) * m.down[0, 1])


@pytest.fixture
def compiled():
    if not native.loaded():
        pytest.skip("no C++ compiler here")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("d", "depth", "n_trees"), [(6, 0, 1), (33, 5, 2), (64, 6, 1), (7, 1, 3)])
@pytest.mark.parametrize("tokens", [0, 1, 16, 17, 500])
def test_the_compiled_walk_equals_the_reference(d, depth, n_trees, tokens):
    torch.manual_seed(0)
    m, x = FFF(d, depth, n_trees).eval(), torch.randn(tokens, d)
    exact = m.double()(x.double())
    m.float()
    with torch.no_grad():
        assert (m(x) - exact).abs().amax() < 1e-5 if tokens else m(x).shape == (0, d)
        logits, rows = torch.ops.layersmith.tree_descend(x, m.up, m.bias)
    every = torch.einsum("td,pnd->tpn", x, m.up) + m.bias
    torch.testing.assert_close(logits, every.flatten(1).gather(1, rows.flatten(1)).view_as(logits), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("act", [*ACTIVATIONS, "elu"])
def test_every_activation_with_and_without_a_gradient(act):
    m, x = fff(d_model=8, act=act).float(), torch.randn(40, 8)
    walked = m(x)
    with torch.no_grad():
        torch.testing.assert_close(m(x), walked, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("compiled")
def test_the_compiled_walk_gives_a_token_the_same_bits_in_any_company():
    torch.manual_seed(0)
    m, x = FFF(48, 6).eval().requires_grad_(False), torch.randn(200, 48)
    assert torch.equal(m(x)[150:170], m(x[150:170]))


@pytest.mark.usefixtures("compiled")
def test_the_compiled_walk_is_one_node_of_a_compiled_graph():
    m, x = fff(d_model=8).float().requires_grad_(False), torch.randn(5, 8)
    torch.testing.assert_close(torch.compile(m, fullgraph=True, backend="aot_eager")(x), m(x))
    assert m.to(torch.double)(x.double()).dtype == torch.double


@pytest.mark.usefixtures("compiled")
def test_the_compiled_walk_refuses_what_is_not_a_tree():
    arguments = torch.randn(3, 8), torch.randn(1, 6, 8), torch.randn(1, 6)
    with pytest.raises(RuntimeError, match="6 nodes are not a complete binary tree"):
        torch.ops.layersmith.tree_descend(*arguments)
    with pytest.raises(RuntimeError, match=r"a forest takes x \(N, d\)"):
        torch.ops.layersmith.tree_descend(arguments[0][:, :7].contiguous(), *arguments[1:])


def test_start_is_the_published_one():
    m = FFF(64, 5, n_trees=4)
    for parameter, bound in ((m.up, 64**-0.5), (m.bias, 64**-0.5), (m.down, 24**-0.5)):
        assert 0.97 * bound < parameter.abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_cost_is_that_of_the_way(dtype):
    m, x = fff(n_trees=2).to(dtype), torch.randn(3, 5, 6, dtype=dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        m(x)
    assert counter.get_total_flops() == m.cost(3, 5).flops == 2 * 15 * 2 * 4 * 2 * 6
    assert (m.cost().params, m.cost().active_params) == (2 * 15 * 13, 2 * 4 * 13)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depth": -1}, "depth must be an integer of at least 0"),
        ({"depth": True}, "depth"),
        ({"n_trees": 0}, "n_trees must be a positive integer"),
        ({"act": "gelo"}, "Did you mean 'gelu"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        fff(**config)
