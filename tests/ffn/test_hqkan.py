"""HQKAN: circuits by explicit complex 2x2 products, the reach of their spectrum, and the layer around them."""

import cmath
import math

import pytest
import torch

from layersmith.ffn.hqkan import HQKAN
from layersmith.ffn.shared.daruan import Daruan


def rz(angle: float) -> list[list[complex]]:
    return [[cmath.exp(-0.5j * angle), 0], [0, cmath.exp(0.5j * angle)]]


def ry(angle: float) -> list[list[complex]]:
    return [[math.cos(angle / 2), -math.sin(angle / 2)], [math.sin(angle / 2), math.cos(angle / 2)]]


def times(gate: list[list[complex]], state: list[complex]) -> list[complex]:
    return [gate[0][0] * state[0] + gate[0][1] * state[1], gate[1][0] * state[0] + gate[1][1] * state[1]]


def circuit(x: float, angles: list[list[float]], weights: list[float]) -> float:
    state = [math.sqrt(0.5), math.sqrt(0.5)]  # H |0>
    for (first, second), weight in zip(angles[:-1], weights, strict=True):
        for gate in (rz(first), ry(second), rz(weight * x)):
            state = times(gate, state)
    for gate in (rz(angles[-1][0]), ry(angles[-1][1])):
        state = times(gate, state)
    return abs(state[0]) ** 2 - abs(state[1]) ** 2


def random_circuits(channels: int, circuits: int, reps: int) -> Daruan:
    torch.manual_seed(0)
    made = Daruan(channels, circuits, reps).double()
    torch.nn.init.normal_(made.angles, std=2.0)
    torch.nn.init.normal_(made.weights, std=1.5)
    return made


@pytest.mark.oracle("hqkan")
@pytest.mark.parametrize("reps", [1, 2, 4])
def test_circuits_by_complex_matrices(reps):
    made = random_circuits(3, 2, reps)
    x = 2 * torch.randn(7, 3, dtype=torch.double)
    got = made(x)
    assert got.abs().max() <= 1 + 1e-12
    for token, row in zip(x.tolist(), got.tolist(), strict=True):
        for i in range(3):
            for k in range(2):
                expected = circuit(token[i], made.angles[i, k].tolist(), made.weights[i, k].tolist())
                assert row[i][k] == pytest.approx(expected, abs=1e-12)


@pytest.mark.oracle("hqkan")
@pytest.mark.parametrize(("weights", "highest"), [([1, 1, 1, 1], 4), ([1, 2, 4, 8], 15)])
def test_spectrum_reaches_2_to_the_r_minus_1_with_doubling_weights_and_r_with_equal_ones(weights, highest):
    made = random_circuits(1, 5, 4)
    with torch.no_grad():
        made.weights.copy_(torch.tensor(weights))
    x = torch.arange(64, dtype=torch.double) * (2 * math.pi / 64)
    size = torch.fft.rfft(made(x[:, None])[:, 0], dim=0).abs() / 64
    assert (size[highest] > 1e-6).all()
    assert size[highest + 1 :].max() < 1e-12


@pytest.mark.oracle("hqkan")
def test_by_loops():
    torch.manual_seed(0)
    part = HQKAN(6, 3, reps=2).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    x = torch.randn(5, 6, dtype=torch.double)

    def affine(v, linear):
        rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
        return [sum(a * b for a, b in zip(row, v, strict=True)) + c for row, c in rows]

    for token, y in zip(x.tolist(), part(x).tolist(), strict=True):
        h = affine(token, part.down)
        g = affine([v / (1 + math.exp(-v)) for v in h], part.base)
        for o in range(3):
            for i in range(3):
                angles, weights = part.circuits.angles[i, o].tolist(), part.circuits.weights[i, o].tolist()
                g[o] += part.scale[i, o].item() * circuit(h[i], angles, weights)
        assert y == pytest.approx(affine(g, part.up), rel=1e-10)


@pytest.mark.oracle("hqkan")
def test_without_circuits_and_with_an_identity_base_it_is_a_low_rank_map():
    part = HQKAN(6, 3, base="identity").double()
    with torch.no_grad():
        part.scale.zero_()
        part.base.weight.copy_(torch.eye(3))
        part.base.bias.zero_()
    x = torch.randn(9, 6, dtype=torch.double)
    torch.testing.assert_close(part(x), part.up(part.down(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("hqkan")
def test_layer_extension_changes_nothing_and_can_learn():
    torch.manual_seed(0)
    part = HQKAN(6, 3, reps=2).double()
    longer = part.extended(4)
    x = torch.randn(9, 6, dtype=torch.double)
    torch.testing.assert_close(longer(x), part(x), rtol=1e-12, atol=1e-12)
    assert longer.spec() == {**part.spec(), "reps": 4}
    longer(x).square().sum().backward()
    assert longer.circuits.angles.grad[:, :, 3:].any()
    with pytest.raises(ValueError, match="reps=2 must be more than the 2"):
        part.extended(2)


def test_cost_is_two_thin_maps_and_the_edges():
    part, d, b, reps = HQKAN(64, 10, reps=1), 64, 10, 1
    assert part.cost().params == 2 * d * b + b + d + (3 * reps + 4) * b * b + b
    assert part.cost(1, 7).flops == 2 * 7 * (2 * d * b + b * b)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"reps": 0}, "reps must be a positive integer"),
        ({"d_bottleneck": 0}, "d_bottleneck must be"),
        ({"base": "sine"}, "base='sine' is no activation"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        HQKAN(**{"d_model": 8, "d_bottleneck": 4, **config})
