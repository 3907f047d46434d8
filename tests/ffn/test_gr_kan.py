"""GR-KAN: composition, initial variance, and the step from a trained MLP."""

import pytest
import torch

from layersmith.ffn.gr_kan import GRKAN
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation


def rational(x: list[float], a: list[float], b: list[list[float]]) -> list[float]:
    out = []
    for i, value in enumerate(x):
        row = b[i * len(b) // len(x)]
        p = sum(c * value**power for power, c in enumerate(a))
        q = sum(c * value ** (power + 1) for power, c in enumerate(row))
        out.append(p / (1 + abs(q)))
    return out


def affine(x: list[float], linear: torch.nn.Linear) -> list[float]:
    w, b = linear.weight.tolist(), linear.bias.tolist()
    return [sum(r * v for r, v in zip(row, x, strict=True)) + c for row, c in zip(w, b, strict=True)]


@pytest.mark.oracle("gr_kan")
def test_by_loops():
    torch.manual_seed(0)
    part = GRKAN(8, 12, groups=4).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 8, dtype=torch.double)
    for token, y in zip(x.tolist(), part(x).tolist(), strict=True):
        hidden = affine(rational(token, part.act_in.a.tolist(), part.act_in.b.tolist()), part.up)
        expected = affine(rational(hidden, part.act_hidden.a.tolist(), part.act_hidden.b.tolist()), part.down)
        assert y == pytest.approx(expected, rel=1e-10)


@pytest.mark.oracle("gr_kan")
@pytest.mark.parametrize("act", ["gelu", "silu"])
def test_from_a_trained_mlp_differs_by_the_fit_of_the_activation_only(act):
    torch.manual_seed(0)
    mlp = MLP(16, 64, act=act).double()
    part = GRKAN.from_mlp(mlp)
    x = 2 * torch.randn(100, 16, dtype=torch.double)
    hidden = mlp.up(x)
    error = (part.act_hidden(hidden) - activation(act)(hidden)).abs().max()
    assert hidden.abs().max() < 8  # within the fitted interval
    assert error < 4e-3
    bound = error * mlp.down.weight.abs().sum(1).max()
    assert 0 < (part(x) - mlp(x)).abs().max() <= bound
    assert part.spec() == GRKAN(16, 64, act=act).spec()


def test_new_weights_keep_unit_variance():
    torch.manual_seed(0)
    part = GRKAN(256, 1024, act="silu")
    x = torch.randn(2000, 256)
    hidden = part.up(part.act_in(x))
    assert hidden.var().item() == pytest.approx(1, rel=0.05)
    # E[y^2], not the variance: the second map's gain is 1 / E[F(z)^2].
    assert part.down(part.act_hidden(hidden)).square().mean().item() == pytest.approx(1, rel=0.1)


def test_groups_must_divide_both_widths():
    with pytest.raises(ValueError, match="groups=8 must divide the number of channels, 12"):
        GRKAN(16, 12)
