"""S-KAN: by loops, as the KAN of one basis, and its three phases down to one basis per input."""

import math

import pytest
import torch

from layersmith.ffn.kan import KAN
from layersmith.ffn.select_kan import SelectKAN, SelectLayer
from layersmith.ffn.shared.kan_basis import make_basis

POOL = ["b_spline", "chebyshev", "fourier"]


def part(**config) -> SelectKAN:
    torch.manual_seed(0)
    made = SelectKAN(**{"d_model": 4, "d_hidden": 5, "size": 4, **config}).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(40, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def by_loops(x: list[float], layer: SelectLayer) -> list[float]:
    weight, bias = layer.base.weight.tolist(), layer.base.bias.tolist()
    alpha, c = layer.alpha.tolist(), layer.coefficients.tolist()
    y = []
    for o in range(len(bias)):
        total = bias[o]
        for i, v in enumerate(x):
            total += weight[o][i] * v / (1 + math.exp(-v))
            for m, basis in enumerate(layer.bases):
                values = basis(torch.tensor([v], dtype=torch.double))[0].tolist()
                total += alpha[i][m] * sum(a * b for a, b in zip(c[o][i][m], values, strict=True))
        y.append(total)
    return y


@pytest.mark.oracle("select_kan")
def test_by_loops(x):
    made = part()
    for token, y in zip(x[:6].tolist(), made(x[:6]).tolist(), strict=True):
        assert y == pytest.approx(by_loops(by_loops(token, made.up), made.down), rel=1e-10)


@pytest.mark.oracle("select_kan")
@pytest.mark.parametrize("m", range(3))
def test_one_hot_weights_are_the_kan_of_that_basis(x, m):
    made, kan = part(), KAN(4, 5, POOL[m], size=4).double()
    with torch.no_grad():
        for ours, theirs in ((made.up, kan.up), (made.down, kan.down)):
            ours.alpha.copy_(torch.eye(3)[m])
            theirs.coefficients.copy_(ours.coefficients[:, :, m])
            theirs.base.load_state_dict(ours.base.state_dict())
    torch.testing.assert_close(made(x), kan(x), rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("select_kan")
def test_a_pruned_part_equals_the_selected_one(x):
    made = part(pool=["rbf", "relu", "fourier"])
    full = made(x)
    made.select(x, keep=2)
    assert {layer.on.sum(-1).unique().item() for layer in (made.up, made.down)} == {2}
    made.select(x, keep=1)
    selected = made(x)
    small = made.prune()
    torch.testing.assert_close(small(x), selected, rtol=1e-12, atol=1e-12)
    assert (selected - full).abs().max() > 1e-3  # something was lost
    # Coefficients of one basis out of three remain; relu's learned ends (2 * 4 a layer) stay.
    assert made.cost().params - small.cost().params == 2 * (2 * 4 * 5 * 4) + 2 * 9
    assert small.cost(1, 7).flops < 0.5 * made.cost(1, 7).flops
    again = SelectKAN(**{k: v for k, v in small.spec().items() if k != "name"}).double()
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))


def test_what_is_off_learns_nothing(x):
    made = part()
    made.select(x, keep=1)
    made(x).square().sum().backward()
    for layer in (made.up, made.down):
        off = layer.on == 0
        assert not layer.alpha.grad[off].any()
        assert not layer.coefficients.grad[:, off].any()
        assert layer.coefficients.grad[:, ~off].any()


@pytest.mark.oracle("select_kan")
def test_the_kept_bases_are_the_least_squares_fit_to_the_whole_functions(x):
    """For each input by itself: fit all its edge functions with each basis and a constant, keep the best fit."""
    layer = part().up
    functions = [
        sum(layer.alpha[i, m] * basis(x)[:, i] @ layer.coefficients[:, i, m].T for m, basis in enumerate(layer.bases))
        for i in range(4)
    ]
    before = layer(x)
    expected, chosen = before - sum(functions), []
    for i in range(4):
        fits = []
        for basis in layer.bases:
            columns = torch.cat([basis(x)[:, i], torch.ones(len(x), 1, dtype=torch.double)], 1)
            fits.append(columns @ torch.linalg.lstsq(columns, functions[i], driver="gelsd").solution)
        errors = [(fit - functions[i]).square().sum().item() for fit in fits]
        chosen.append(errors.index(min(errors)))
        expected = expected + fits[chosen[-1]]
    layer.select(x, keep=1)
    assert layer.on.argmax(-1).tolist() == chosen
    torch.testing.assert_close(layer(x), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.oracle("select_kan")
def test_keeping_all_changes_nothing(x):
    made = part()
    before = made(x)
    made.select(x, keep=3)
    # Directions that hold less than 1e-12 of the variance are not fitted.
    torch.testing.assert_close(made(x), before, rtol=1e-5, atol=1e-5)


def test_training_finds_the_basis_that_made_each_function():
    """One target per input, each a function out of another basis's space: that basis is kept, at little loss."""
    torch.manual_seed(0)
    x = torch.rand(600, 3) * 6 - 3
    wave = make_basis("fourier", 10, -3.0, 3.0)(x[:, 0])[:, [4, 9]].sum(1)
    polynomial = make_basis("chebyshev", 10, -3.0, 3.0)(x[:, 1])[:, 9]
    bump = 3 * make_basis("b_spline", 10, -3.0, 3.0)(x[:, 2])[:, 4]
    target = (wave + polynomial + bump)[:, None]
    layer = SelectLayer(3, 1, ["b_spline", "chebyshev", "fourier"], 10, -3.0, 3.0, "silu", False)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * target.var().item()
    layer.select(x, keep=1)
    assert layer.on.argmax(-1).tolist() == [2, 1, 0]
    assert (layer(x) - target).square().mean() < 0.03 * target.var()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pool": []}, "pool=.* must name at least one basis"),
        ({"pool": ["rbf", "rbf"]}, "none twice"),
        ({"pool": ["wavelet"]}, "Unknown basis 'wavelet'"),
        ({"base": "nothing"}, "base='nothing' is no activation"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        part(**config)


def test_phases_out_of_order_are_refused(x):
    made = part()
    with pytest.raises(ValueError, match=r"select\(x, keep=1\)"):
        made.prune()
    with pytest.raises(ValueError, match="keep=4 of 3"):
        made.select(x, keep=4)
    made.select(x)
    with pytest.raises(ValueError, match="not pruned yet"):
        made.prune().select(x)
