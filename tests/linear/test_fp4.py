"""4-bit floats in blocks: the grid and its ties, both kinds of scale, exact values, storage, and refusals."""

import math

import pytest
import torch

from layersmith import catalogue
from layersmith.linear.fp4 import FP4Linear, decoded, encoded

GRID = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FORMATS = {"nvfp4": 16, "mxfp4": 32}


def nearest(value):
    """The nearest of the grid; of two, the one whose index is even; with the sign of the value."""
    size = abs(value)
    best = min(range(8), key=lambda i: (abs(GRID[i] - size), i % 2))
    return math.copysign(GRID[best], value)


def e4m3(value):
    """To 4 significant bits (3 stored), subnormals below 2^-6 in steps of 2^-9; ties to even."""
    exponent = max(math.floor(math.log2(value)), -6)
    step = 2.0 ** (exponent - 3)
    return round(value / step) * step


def by_loops(weight, format):
    w, block = weight.double().tolist(), FORMATS[format]
    whole = max(abs(v) for row in w for v in row) / (448 * 6)
    found = []
    for row in w:
        made = []
        for start in range(0, len(row), block):
            part = row[start : start + block]
            largest = max(map(abs, part))
            if format == "nvfp4":
                scale = e4m3(min(max(largest / (6 * whole), 2.0**-9), 448.0)) * whole
            else:
                scale = 2.0 ** (math.floor(math.log2(largest)) - 2) if largest else 1.0
            made += [scale * nearest(v / scale) for v in part]
        found.append(made)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.oracle("fp4")
@pytest.mark.parametrize("format", FORMATS)
def test_rounding_by_loops(format):
    torch.manual_seed(0)
    weight = torch.randn(9, 64) * torch.logspace(-3, 2, 9)[:, None]
    got = FP4Linear.from_weight(weight, format).dense_weight().double()
    torch.testing.assert_close(got, by_loops(weight, format), rtol=1e-5, atol=0)


@pytest.mark.oracle("fp4")
@pytest.mark.parametrize("format", FORMATS)
def test_what_the_format_holds_is_kept_exactly(format):
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor(GRID)[torch.randint(0, 8, (6, 64), generator=generator)]
    values = values * (1 - 2 * torch.randint(0, 2, values.shape, generator=generator))
    values.view(6, -1, FORMATS[format])[..., 0] = 6.0  # every block spans its scale
    scales = 2.0 ** torch.randint(-3, 4, (6, 64 // FORMATS[format]), generator=generator)
    scales[0, 0] = 2.0**3
    weight = values * scales.repeat_interleave(FORMATS[format], 1)
    if format == "nvfp4":  # the largest is then 448 * 6, and the scale of the tensor 1
        weight = weight / 2.0**3 * 448
    assert torch.equal(FP4Linear.from_weight(weight, format).dense_weight(), weight)


def test_ties_go_to_the_even_code_and_large_ones_to_six():
    row = torch.tensor([[4.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.9, -0.25, -0.75, -5.0] + [0.0] * 20])
    found = FP4Linear.from_weight(row, "mxfp4").dense_weight()[0, :12].tolist()
    assert found == [4.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, 0.0, -1.0, -4.0]


@pytest.mark.parametrize(("format", "expected"), [("nvfp4", 0.0091), ("mxfp4", 0.0133)])
def test_error_on_normal_weights_is_that_of_the_format(format, expected):
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    error = (FP4Linear.from_weight(weight, format).dense_weight() - weight).square().mean() / weight.square().mean()
    assert float(error) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("format", "bytes_a_block"), [("nvfp4", 1), ("mxfp4", 1)])
def test_storage_is_half_a_byte_a_weight_and_casts_leave_it_alone(format, bytes_a_block):
    part = FP4Linear.from_weight(torch.randn(48, 64), format)
    before = part.dense_weight()
    assert part.cost().weight_bytes == 48 * 64 // 2 + 48 * 64 // FORMATS[format] * bytes_a_block + 4
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(part.to(dtype).dense_weight(), before)


@pytest.mark.oracle("fp4")
@pytest.mark.parametrize("format", FORMATS)
def test_inputs_are_rounded_token_by_token_and_gradients_pass(format):
    torch.manual_seed(0)
    weight = torch.randn(6, 64)
    part = FP4Linear.from_weight(weight, format, activations=True)
    x = (torch.randn(2, 3, 64) * torch.logspace(-2, 2, 3)[:, None]).requires_grad_()
    y = part(x)
    rows = torch.cat([by_loops(row[None], format) for row in x.detach().flatten(0, 1)])
    expected = (rows @ by_loops(weight, format).T).view(2, 3, 6)
    torch.testing.assert_close(y.detach().double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    alone = torch.stack([part(row) for row in x[0]])
    torch.testing.assert_close(y[0], alone)
    y.sum().backward()
    torch.testing.assert_close(x.grad, part.dense_weight().sum(0).expand(2, 3, 64))
    assert not torch.isfinite(part(torch.full((64,), float("inf")))).any()


def test_zeros_round_trip_and_encoding_is_idempotent():
    weight = torch.zeros(2, 32)
    weight[1] = torch.linspace(-1, 1, 32)
    for format in FORMATS:
        part = FP4Linear.from_weight(weight, format, torch.ones(2))
        assert not part.dense_weight()[0].any()
        rebuilt = catalogue.build(part.spec())
        rebuilt.load_state_dict(part.state_dict())
        x = torch.randn(3, 32)
        assert torch.equal(rebuilt(x), part(x))
        once = decoded(*encoded(weight, format), format)
        torch.testing.assert_close(decoded(*encoded(once, format), format), once)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"format": "fp8"}, "nvfp4, mxfp4"),
        ({"format": "mxfp4", "d_in": 48}, "do not divide d_in=48"),
        ({"d_out": 0}, "d_out"),
    ],
)
def test_bad_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        FP4Linear(**{"d_in": 64, "d_out": 4, **config})
    with pytest.raises(ValueError, match="NaN or infinity"):
        FP4Linear.from_weight(torch.full((2, 32), float("nan")))
