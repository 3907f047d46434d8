"""Top-k GLU and top-k MLP: oracles, the dense limit, and the gathered path against the masked one."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.ffn.topk_glu import TopKGLU
from layersmith.ffn.topk_mlp import TopKMLP

D, HIDDEN = 6, 16


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 7, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def glu_part(k: int, **config) -> TopKGLU:
    torch.manual_seed(1)
    return TopKGLU(D, HIDDEN, k, **config).double()


def mlp_part(k: int, **config) -> TopKMLP:
    torch.manual_seed(1)
    return TopKMLP(D, HIDDEN, k, **config).double()


def product(matrix: torch.Tensor, token: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, token, strict=True)) for row in matrix.tolist()]


@pytest.mark.oracle("topk_glu")
@pytest.mark.parametrize("gather_tokens", [0, 100])
@pytest.mark.parametrize("k", [1, 5, HIDDEN])
def test_glu_by_loops(x, k, gather_tokens):
    m = glu_part(k, gather_tokens=gather_tokens)
    down = m.down.tolist()
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        gate, up = product(m.gate.weight, token), product(m.up.weight, token)
        best = sorted(range(HIDDEN), key=lambda i: -gate[i])[:k]
        hidden = {i: gate[i] / (1 + math.exp(-gate[i])) * up[i] for i in best}
        assert y == pytest.approx([sum(h * down[i][d] for i, h in hidden.items()) for d in range(D)], rel=1e-9)


@pytest.mark.oracle("topk_mlp")
@pytest.mark.parametrize("gather_tokens", [0, 100])
@pytest.mark.parametrize("k", [1, 5, HIDDEN])
def test_mlp_by_loops(x, k, gather_tokens):
    m = mlp_part(k, act="tanh", gather_tokens=gather_tokens)  # tanh has large negative values, unlike ReLU
    down, bias, up_bias = m.down.tolist(), m.bias.tolist(), m.up.bias.tolist()
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        hidden = [math.tanh(h + b) for h, b in zip(product(m.up.weight, token), up_bias, strict=True)]
        best = sorted(range(HIDDEN), key=lambda i: -abs(hidden[i]))[:k]
        assert y == pytest.approx([sum(hidden[i] * down[i][d] for i in best) + bias[d] for d in range(D)], rel=1e-9)


@pytest.mark.oracle("topk_glu")
@pytest.mark.parametrize("act", ["silu", "gelu", "relu"])
def test_all_channels_are_the_dense_glu(x, act):
    glu = GLU(D, HIDDEN, act=act).double()
    torch.testing.assert_close(TopKGLU.from_glu(glu, HIDDEN)(x), glu(x), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("topk_mlp")
@pytest.mark.parametrize(("act", "bias"), [("relu", True), ("gelu", False)])
def test_all_hidden_values_are_the_dense_mlp(x, act, bias):
    mlp = MLP(D, HIDDEN, act=act, bias=bias).double()
    torch.testing.assert_close(TopKMLP.from_mlp(mlp, HIDDEN)(x), mlp(x), rtol=1e-10, atol=1e-12)


def test_relu_mlp_is_unchanged_while_at_most_k_values_are_positive(x):
    mlp = MLP(D, HIDDEN, act="relu").double()
    active = (mlp.up(x) > 0).sum(-1).max().item()
    assert active < HIDDEN
    torch.testing.assert_close(TopKMLP.from_mlp(mlp, active)(x), mlp(x))


@pytest.mark.parametrize("make", [glu_part, mlp_part])
def test_gathered_path_equals_masked_path_with_all_gradients(x, make):
    gathered, masked = make(5, gather_tokens=100), make(5, gather_tokens=0)
    weight = torch.randn_like(x)
    results = []
    for m in (gathered, masked):
        own = x.clone().requires_grad_()
        y = m(own)
        (y * weight).sum().backward()
        results.append([y, own.grad, *(p.grad for p in m.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("make", "gathered", "masked"),
    [
        (glu_part, D * HIDDEN + 2 * 5 * D, 3 * D * HIDDEN),
        (mlp_part, D * HIDDEN + 5 * D, 2 * D * HIDDEN),
    ],
)
def test_gathered_path_spends_the_flops_of_the_chosen_rows(make, gathered, masked):
    m = make(5, gather_tokens=2)
    for tokens, expected in ((1, gathered), (2, 2 * gathered), (3, 3 * masked)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            m(torch.randn(1, tokens, D, dtype=torch.double))
        assert counter.get_total_flops() == m.cost(1, tokens).flops == 2 * expected


def test_gathered_path_reads_only_the_chosen_rows():
    m = glu_part(5)
    token = torch.randn(1, D, dtype=torch.double)
    expected = m(token)
    unchosen = torch.ones(HIDDEN, dtype=torch.bool)
    unchosen[m.gate(token).topk(5).indices] = False
    with torch.no_grad():
        m.up.weight[unchosen], m.down[unchosen] = float("nan"), float("nan")
    assert torch.equal(m(token), expected)


def test_active_parameters():
    assert glu_part(5).cost().active_params == D * HIDDEN + 2 * 5 * D
    assert mlp_part(5).cost().active_params == D * HIDDEN + HIDDEN + 5 * D + D


@pytest.mark.parametrize("part", [TopKGLU, TopKMLP])
def test_bad_configuration_is_refused(part):
    with pytest.raises(ValueError, match="there are only d_hidden=16"):
        part(D, HIDDEN, 17)
    with pytest.raises(ValueError, match="gather_tokens must be at least 0"):
        part(D, HIDDEN, 4, gather_tokens=-1)


def test_a_glu_with_biases_is_refused():
    with pytest.raises(ValueError, match="has biases"):
        TopKGLU.from_glu(GLU(D, HIDDEN, bias=True), 4)
