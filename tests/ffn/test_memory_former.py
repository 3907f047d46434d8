"""Look-up layers, against loops and against a brute-force softmax over the corners of the cube."""

import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from layersmith.ffn.memory_former import MemoryFormer
from layersmith.linear.memory_linear import MemoryLinear


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 4, 12, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def layer(**config) -> MemoryLinear:
    torch.manual_seed(1)
    made = MemoryLinear(**{"d_in": 12, "d_out": 5, "bits": 3, **config}).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p))
    return made


def by_corners(m: MemoryLinear, token: list[float]) -> list[float]:
    """One token: the softmax over all 2^bits corners of each slice, of which the likeliest corner's row is read."""
    y = m.bias.tolist() if m.bias is not None else [0.0] * m.tables.shape[2]
    corners = list(itertools.product((-1, 1), repeat=m.bits))
    for k, table in enumerate(m.tables.tolist()):
        z = token[k * m.bits : (k + 1) * m.bits]
        scores = [sum(a * b for a, b in zip(z, corner, strict=True)) / m.temperature for corner in corners]
        total = sum(math.exp(s) for s in scores)
        best = max(range(len(corners)), key=scores.__getitem__)
        p = math.exp(scores[best]) / total
        if m.scaled:
            p *= sum(abs(v) for v in z) / m.temperature
        y = [a + p * b for a, b in zip(y, table[best], strict=True)]
    return y


@pytest.mark.oracle("memory_linear")
@pytest.mark.parametrize(
    "config",
    [{}, {"bits": 1}, {"bits": 12}, {"weight": "scaled", "temperature": 0.7}, {"temperature": 2.0, "bias": False}],
)
def test_is_the_softmax_over_all_corners(x, config):
    m = layer(**config)
    for token, y in zip(x.reshape(-1, 12).tolist(), m(x).reshape(-1, 5).tolist(), strict=True):
        assert y == pytest.approx(by_corners(m, token), rel=1e-12, abs=1e-12)


@pytest.mark.oracle("memory_linear")
def test_one_bit_and_scaled_is_a_linear_map_where_signs_are_clear():
    """With T[-] = -T[+], p |z| T[sign z] -> z T[+] as |z| grows: the table holds the matrix itself."""
    m = layer(bits=1, weight="scaled", bias=False)
    weight = torch.randn(12, 5, dtype=torch.double)
    with torch.no_grad():
        m.tables.copy_(torch.stack([-weight, weight], 1))
    z = 20 * torch.randn(7, 12, dtype=torch.double).sign()
    torch.testing.assert_close(m(z), z @ weight, rtol=1e-9, atol=1e-9)


@pytest.mark.oracle("memory_former")
@pytest.mark.parametrize("extra_bits", [0, 2])
def test_feed_forward_by_corners(x, extra_bits):
    torch.manual_seed(2)
    m = MemoryFormer(12, bits=3, extra_bits=extra_bits).double()
    with torch.no_grad():
        for p in m.parameters():
            p.add_(torch.randn_like(p))
    assert m.norm.weight.numel() == 4 * (3 + extra_bits)
    scale, shift = m.norm.weight.tolist(), m.norm.bias.tolist()
    for token, y in zip(x.reshape(-1, 12).tolist(), m(x).reshape(-1, 12).tolist(), strict=True):
        h = by_corners(m.up, token)
        mean = sum(h) / len(h)
        spread = math.sqrt(sum((v - mean) ** 2 for v in h) / len(h) + 1e-5)
        h = [(v - mean) / spread * s + b for v, s, b in zip(h, scale, shift, strict=True)]
        assert y == pytest.approx(by_corners(m.down, h), rel=1e-9, abs=1e-12)


@pytest.mark.oracle("memory_former")
def test_clear_signs_read_rows_whole():
    """Where every sign is clear, p = 1: the output is a sum of rows and does not depend on sizes."""
    m = layer()
    z = 50 * torch.randn(6, 12, dtype=torch.double).sign()
    torch.testing.assert_close(m(z), m(3 * z), rtol=1e-12, atol=0)


def test_memory_is_reported_and_products_are_gone():
    m = MemoryFormer(64, bits=8, extra_bits=2)
    cost = m.cost(1, 10)
    tables = 8 * 256 * 80 + 8 * 1024 * 64
    assert cost.params == tables + 80 + 64 + 2 * 80
    assert cost.active_params == 8 * 80 + 8 * 64 + 80 + 64 + 2 * 80
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        m(torch.randn(10, 64))
    assert counter.get_total_flops() == cost.flops == 2 * 10 * (8 * 80 + 8 * 64)
    assert cost.flops < (2 * 10 * (2 * 64 * 80)) / 8  # a row instead of eight products, one in ten in the second layer


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": 5}, "bits=5 must divide d_in=12"),
        ({"bits": 24, "d_in": 48}, "at most 20"),
        ({"weight": "hard"}, "weight must be one of softmax, scaled"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"d_out": 0}, "d_out must be a positive integer"),
    ],
)
def test_bad_linear_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        layer(**config)


@pytest.mark.parametrize(("config", "message"), [({"bits": 5}, "bits=5 must divide"), ({"extra_bits": -1}, "extra_b")])
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        MemoryFormer(**{"d_model": 12, "bits": 3, **config})
