"""Random features: by loops, the kernel identities they estimate, and the rate at which they do."""

import cmath
import math

import pytest
import torch

from layersmith.ffn.snnk import SNNK, directions, universal_features


def by_loops(m: SNNK, token: list[float]) -> list[float]:
    g = m.g.tolist()
    dots = [sum(a * b for a, b in zip(row, token, strict=True)) for row in g]
    if m.features == "relu":
        phi = [max(0.0, v) / math.sqrt(len(g)) for v in dots]
    else:
        length = math.sqrt(sum(v * v for v in token))
        s = cmath.sqrt(2j * math.pi * m.frequency)
        z = [cmath.exp(s * v / length - s * s / 2) / math.sqrt(len(g)) for v in dots]
        phi = [v.real for v in z] + [v.imag for v in z]
    out = m.out.weight.tolist()
    return [
        sum(a * b for a, b in zip(row, phi, strict=True)) + c for row, c in zip(out, m.out.bias.tolist(), strict=True)
    ]


@pytest.mark.oracle("snnk")
@pytest.mark.parametrize("config", [{}, {"features": "universal"}, {"features": "universal", "frequency": -0.3}])
def test_by_loops(config):
    torch.manual_seed(0)
    m = SNNK(6, 11, **config).double()
    x = torch.randn(2, 4, 6, dtype=torch.double)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9)


@pytest.mark.oracle("snnk")
def test_relu_features_give_the_arc_cosine_kernel():
    torch.manual_seed(0)
    m = SNNK(5, 400_000, orthogonal=False).double()
    x, w = torch.randn(5, dtype=torch.double), torch.randn(5, dtype=torch.double)
    angle = torch.acos(x @ w / (x.norm() * w.norm()))
    exact = x.norm() * w.norm() * (angle.sin() + (math.pi - angle) * angle.cos()) / (2 * math.pi)
    assert float(m.phi(x) @ m.phi(w)) == pytest.approx(float(exact), rel=0.01)


def estimates(f: str, count: int, draws: int) -> tuple[torch.Tensor, float]:
    """`draws` estimates of f(w . x) from `count` features each, and the true value."""
    torch.manual_seed(0)
    x, w = 0.5 * torch.randn(4, dtype=torch.double), 0.5 * torch.randn(4, dtype=torch.double)
    g = torch.randn(draws, count, 4, dtype=torch.double)
    u = float(x @ w)
    if f == "sin":  # one frequency: the imaginary part of exp(i u)
        xi, pick = torch.full((draws, count, 1), 1 / (2 * math.pi)), "imag"
    else:  # exp(-u^2 / 2) is the mean of exp(2 pi i xi u) over xi ~ N(0, 1 / 4 pi^2)
        xi, pick = torch.randn(draws, count, 1) / (2 * math.pi), "real"
    s = torch.sqrt(2j * math.pi * xi.double())[..., 0]
    features = [torch.exp(s * (g @ v) - s**2 * (v @ v) / 2) for v in (x, w)]
    return getattr((features[0] * features[1]).mean(1), pick), math.sin(u) if f == "sin" else math.exp(-u * u / 2)


@pytest.mark.oracle("snnk")
@pytest.mark.parametrize("f", ["sin", "gaussian"])
def test_error_falls_with_the_square_root_of_the_features(f):
    errors = {}
    for count in (100, 1600):
        found, exact = estimates(f, count, draws=300)
        assert float(found.mean()) == pytest.approx(exact, abs=4 * float(found.std()) / math.sqrt(300))
        errors[count] = float((found - exact).square().mean().sqrt())
    assert errors[100] / errors[1600] == pytest.approx(4.0, rel=0.25)


@pytest.mark.oracle("snnk")
def test_universal_features_split_a_sine_neuron_into_input_and_weights():
    """sin(w . x) = Im(Phi(x) . Phi(w)): with that W, the part is a layer of sine neurons."""
    torch.manual_seed(0)
    d, m = 3, 200_000
    part = SNNK(d, m, features="universal", orthogonal=False, bias=False).double()
    w = torch.nn.functional.normalize(torch.randn(d, d, dtype=torch.double), dim=-1)
    real, imaginary = universal_features(w, part.g, part.frequency).chunk(2, dim=-1)
    with torch.no_grad():
        part.out.weight.copy_(torch.cat([imaginary, real], dim=-1))
    x = torch.nn.functional.normalize(torch.randn(6, d, dtype=torch.double), dim=-1)
    torch.testing.assert_close(part(x), torch.sin(x @ w.T), rtol=0, atol=0.03)


def test_orthogonal_directions():
    torch.manual_seed(0)
    g = directions(10, 4, orthogonal=True)
    for group in (g[:4], g[4:8]):
        torch.testing.assert_close(group @ group.T, torch.diag(group.square().sum(1)), rtol=1e-4, atol=1e-4)


def test_only_the_output_map_is_trained_and_the_directions_are_stored():
    m = SNNK(32, 64)
    assert m.cost().params == 64 * 32 + 32
    assert m.cost().weight_bytes == 4 * (2 * 64 * 32 + 32)
    assert m.cost().flops == 2 * 2 * 64 * 32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_features": 0}, "n_features must be a positive integer"),
        ({"features": "cosine"}, "features must be one of relu, universal"),
        ({"frequency": float("inf")}, "frequency must be a finite number"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        SNNK(**{"d_model": 4, "n_features": 4, **config})
