"""Mixture units by loops, and the density that they are."""

import math

import pytest
import torch

from layersmith.ffn import ugmm
from layersmith.ffn.ugmm import UGMM


def part(d_hidden: int = 5) -> UGMM:
    torch.manual_seed(0)
    m = UGMM(4, d_hidden).double()
    torch.nn.init.normal_(m.share)
    return m


def by_loops(m: UGMM, token: list[float]) -> list[float]:
    h = []
    for mean, log_std, share in zip(m.mean.tolist(), m.log_std.tolist(), m.share.tolist(), strict=True):
        total = sum(math.exp(w) for w in share)
        density = 0.0
        for x, mu, s, w in zip(token, mean, log_std, share, strict=True):
            sigma = math.exp(s)
            density += (
                math.exp(w) / total * math.exp(-((x - mu) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
            )
        h.append(math.log(density))
    down, bias = m.down.weight.tolist(), m.down.bias.tolist()
    return [sum(a * b for a, b in zip(row, h, strict=True)) + c for row, c in zip(down, bias, strict=True)]


@pytest.mark.oracle("ugmm")
def test_by_loops():
    m = part()
    x = torch.randn(2, 6, 4, dtype=torch.double)
    for token, y in zip(x.reshape(-1, 4).tolist(), m(x).reshape(-1, 4).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9)


@pytest.mark.oracle("ugmm")
def test_is_a_density_of_one_shared_value():
    t = torch.linspace(-40, 40, 40_001, dtype=torch.double)
    density = part().log_density(t[:, None].expand(-1, 4)).exp()
    torch.testing.assert_close(torch.trapezoid(density, t, dim=0), torch.ones(5, dtype=torch.double))


@pytest.mark.oracle("ugmm")
def test_one_component_alone_is_a_gaussian():
    m = part(1)
    with torch.no_grad():
        m.share.copy_(torch.tensor([[-1e4, 0.0, -1e4, -1e4]]))
    x = torch.randn(7, 4, dtype=torch.double)
    normal = torch.distributions.Normal(m.mean[0, 1], m.log_std[0, 1].exp())
    torch.testing.assert_close(m.log_density(x)[:, 0], normal.log_prob(x[:, 1]))


def test_groups_of_units_change_nothing(monkeypatch):
    m, x = part(), torch.randn(3, 4, dtype=torch.double)
    whole = m(x)
    monkeypatch.setattr(ugmm, "GROUP", 24)  # two units at a time
    torch.testing.assert_close(m(x), whole)


def test_far_away_inputs_stay_finite():
    m = part().float()
    x = torch.full((2, 4), 1e4, requires_grad=True)
    y = m(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_three_parameters_for_each_connection():
    assert UGMM(32, 16).cost().params == 3 * 32 * 16 + 16 * 32 + 32


@pytest.mark.parametrize("config", [{"d_model": 0}, {"d_hidden": 0}])
def test_bad_configuration_is_refused(config):
    with pytest.raises(ValueError, match=f"{next(iter(config))} must be a positive integer"):
        UGMM(**{"d_model": 4, "d_hidden": 4, **config})
